// Theorem 1 for K equally likely classes: the curves of companion/vulnerability.py, with t = ω⁻¹(η) = η / L.
import { quantile, upperTail } from "./normal.js";

// (4): 1 − K Φ(−a − t) with Φ(−a) = 1/K, summed as a difference of tails.
export function bound(t, numClasses) {
  const a = -quantile(1 / numClasses);
  return numClasses * (upperTail(a) - upperTail(a + t));
}

// (5): for any classes of probability at most 1/2.
export const balancedBound = (t) => 1 - Math.sqrt(Math.PI / 2) * Math.exp((-t * t) / 2);

// The simpler form for K ≥ 5 equally likely classes.
export function equiprobableBound(t, numClasses) {
  const rate = Math.sqrt(Math.log((numClasses * numClasses) / (4 * Math.PI * Math.log(numClasses))));
  return 1 - Math.sqrt(Math.PI / 2) * Math.exp((-t * t) / 2 - t * rate);
}

// The t at which (4) reaches q.
export const boundQuantile = (q, numClasses) => quantile(1 / numClasses) - quantile((1 - q) / numClasses);

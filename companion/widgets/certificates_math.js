// The bound of Theorem 1 with a certified constant, and quantiles of what was measured.
import { floor } from "./tightness_math.js";

// The t at which the bound (4) for classes of probabilities p is q, in latent units: by halving, to the last digit.
export function promised(p, q) {
  let [low, high] = [0, 40];
  for (let k = 0; k < 60; k++) {
    const middle = (low + high) / 2;
    if (floor(p, middle) < q) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

export const sorted = (values) => [...values].sort((a, b) => a - b);

// The q-quantile of sorted values, between two of them on the straight line.
export function quantileOf(values, q) {
  const place = q * (values.length - 1);
  const below = Math.floor(place);
  return values[below] + (place - below) * ((values[below + 1] ?? values[below]) - values[below]);
}

// The largest k for which fewer than k of n draws of chance q have a probability below `level`: a binomial quantile.
function binomial(n, q, level) {
  let [term, sum, k] = [n * Math.log1p(-q), 0, 0];
  for (; k < n; k++) {
    sum += Math.exp(term);
    if (sum >= level) break;
    term += Math.log(((n - k) / (k + 1)) * (q / (1 - q)));
  }
  return k;
}

// Between these two of the sorted values the true quantile is, with 95 % confidence (with its ranks).
export const intervalOf = (values, q) => [values[binomial(values.length, q, 0.025) - 1], values[binomial(values.length, q, 0.975)]];

export const shareWithin = (values, eta) => values.filter((value) => value <= eta).length / values.length;

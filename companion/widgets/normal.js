// The standard normal law in double precision, to about 1e-13 relative: density, tail and quantile.

export const density = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);

// P(N > x). Near 0 by the series φ(x)(x + x³/3 + x⁵/(3·5) + …) for P(0 < N < x), all of whose terms are positive;
// far out by the continued fraction φ(x) / (x + 1/(x + 2/(x + 3/…))), evaluated from its end.
export function upperTail(x) {
  if (x < 0) return 1 - upperTail(-x);
  if (x < 3) {
    let term = x;
    let sum = 0;
    for (let odd = 3; sum + term !== sum; odd += 2) {
      sum += term;
      term *= (x * x) / odd;
    }
    return 0.5 - density(x) * sum;
  }
  let fraction = x;
  for (let k = 100; k > 0; k--) fraction = x + k / fraction;
  return density(x) / fraction;
}

export const cdf = (x) => upperTail(-x);

// The x with P(N ≤ x) = p: Halley's method from the tail's leading terms.
export function quantile(p) {
  if (p > 0.5) return -quantile(1 - p);
  if (p <= 0) return -Infinity;
  const u = Math.sqrt(-2 * Math.log(p));
  let x = Math.log(2 * Math.PI * u * u) / (2 * u) - u;
  for (let k = 0; k < 8; k++) {
    const error = (cdf(x) - p) / density(x);
    x -= error / (1 + (x * error) / 2);
  }
  return x;
}

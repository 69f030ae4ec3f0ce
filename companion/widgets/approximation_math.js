// Theorem 4 with a dozen points: W₁ of two samples as `transport` of companion/approximation.py has it.

export const MOST = 12;
const PAIRS = 100;

// The cheapest pairing of n real with n generated points, exactly: for every set of generated points, that of the first
// so many real points with them.
export function pairing(real, generated) {
  const n = real.length;
  const cost = real.map((p) => generated.map((q) => Math.hypot(p[0] - q[0], p[1] - q[1])));
  const least = new Float64Array(1 << n).fill(Infinity);
  const last = new Int8Array(1 << n);
  least[0] = 0;
  for (let set = 0, size = 0; set < 1 << n; set++, size = bits(set)) {
    if (size === n) break;
    for (let j = 0; j < n; j++) {
      if (set & (1 << j)) continue;
      const value = least[set] + cost[size][j];
      if (value < least[set | (1 << j)]) {
        least[set | (1 << j)] = value;
        last[set | (1 << j)] = j;
      }
    }
  }
  const partner = [];
  for (let set = (1 << n) - 1, k = n - 1; k >= 0; set ^= 1 << partner[k], k--) partner[k] = last[set];
  return { distance: least[(1 << n) - 1] / n, partner };
}

function bits(set) {
  let count = 0;
  for (; set; set &= set - 1) count++;
  return count;
}

// Standard normal numbers, the same every time: a multiplicative congruential generator, and Box and Muller's map.
export function normals(count) {
  let state = 1;
  const uniform = () => (state = (48271 * state) % 2147483647) / 2147483647;
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

// The mean W₁ of n points of N(0, I) and n others of that law moved by `shift`, over 100 pairs of samples, for n = 1, …, 12.
export function meanDistances(shift) {
  const numbers = normals(PAIRS * MOST * 4);
  const points = Array.from({ length: PAIRS * MOST * 2 }, (_, k) => [numbers[2 * k], numbers[2 * k + 1]]);
  const moved = points.map(([x, y]) => [x + shift, y]);
  return Array.from({ length: MOST }, (_, k) => {
    let sum = 0;
    for (let pair = 0; pair < PAIRS; pair++) {
      const [first, second] = [2 * pair * MOST, (2 * pair + 1) * MOST];
      sum += pairing(points.slice(first, first + k + 1), moved.slice(second, second + k + 1)).distance;
    }
    return sum / PAIRS;
  });
}

// The mean distance to the line x₁ = 0: the mean r_unc of the half-plane that it bounds.
export const meanRadius = (points) => points.reduce((sum, [x]) => sum + Math.abs(x), 0) / points.length;

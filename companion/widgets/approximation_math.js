// Theorem 4 with a dozen points: W₁ of two samples as `transport` of companion/approximation.py has it.

export const MOST = 12;
const PAIRS = 100;

// The cheapest pairing of n real with n generated points, exactly: one real point after the other gets a partner, by the
// cheapest chain of exchanges among those before it. Prices keep cost − u − v at least 0, and at 0 for partners.
export function pairing(real, generated) {
  const n = real.length;
  const cost = real.map((p) => generated.map((q) => Math.hypot(p[0] - q[0], p[1] - q[1])));
  const [u, v, owner] = [new Array(n).fill(0), new Array(n).fill(0), new Array(n).fill(-1)];
  for (let start = 0; start < n; start++) {
    const [least, before, done] = [new Array(n).fill(Infinity), new Array(n).fill(-1), new Array(n).fill(false)];
    let [row, last, length] = [start, -1, 0];
    while (row >= 0) {
      let next = -1;
      for (let j = 0; j < n; j++) {
        if (done[j]) continue;
        const value = length + cost[row][j] - u[row] - v[j];
        if (value < least[j]) [least[j], before[j]] = [value, last];
        if (next < 0 || least[j] < least[next]) next = j;
      }
      done[next] = true;
      [last, length, row] = [next, least[next], owner[next]];
    }
    u[start] += length;
    for (let j = 0; j < n; j++) {
      if (!done[j] || owner[j] < 0) continue;
      u[owner[j]] += length - least[j];
      v[j] -= length - least[j];
    }
    for (let j = last; j >= 0; j = before[j]) owner[j] = before[j] < 0 ? start : owner[before[j]];
  }
  const partner = real.map((_, i) => owner.indexOf(i));
  return { distance: partner.reduce((sum, j, i) => sum + cost[i][j], 0) / n, partner };
}

// Standard normal numbers, the same every time: a multiplicative congruential generator, and Box and Muller's map.
export function normals(count) {
  let state = 1;
  const uniform = () => (state = (48271 * state) % 2147483647) / 2147483647;
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

let drawn;
function samples() {
  const numbers = normals(PAIRS * MOST * 4);
  return Array.from({ length: PAIRS * MOST * 2 }, (_, k) => [numbers[2 * k], numbers[2 * k + 1]]);
}

// The mean W₁ of n points of N(0, I) and n others of that law moved by `shift`, over 100 pairs of samples, for n = 1, …, 12.
export function meanDistances(shift) {
  const points = (drawn ??= samples());
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

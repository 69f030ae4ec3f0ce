// The law of r_Z for three partitions of the plane, as companion/tightness.py has them: exact, or by quadrature.
import { quantile, upperTail } from "./normal.js";

const SQRT_2PI = Math.sqrt(2 * Math.PI);
const onCircle = (turn) => [Math.cos(2 * Math.PI * turn), Math.sin(2 * Math.PI * turn)];
const THIRD = quantile(2 / 3); // slabs of equal shares meet at ±THIRD

// Gauss's rule of five points on [−1, 1].
const GAUSS = [[0, 128 / 225]];
for (const sign of [-1, 1]) {
  const root = 2 * Math.sqrt(10 / 7);
  GAUSS.push([(sign * Math.sqrt(5 - root)) / 3, (322 + 13 * Math.sqrt(70)) / 900], [(sign * Math.sqrt(5 + root)) / 3, (322 - 13 * Math.sqrt(70)) / 900]);
}
const PANELS = 10;

// The logits ⟨w, z⟩ + b of a shape, turned by `turn` degrees, and moved by `shift`.
export function partition(shape, turn, shift) {
  const directions = shape === "tripod" ? [0, 1, 2].map((k) => onCircle(turn / 360 + k / 3)) : [-1, 0, 1].map((k) => onCircle(turn / 360).map((v) => k * v));
  if (shape === "half-space") directions.splice(1, 1);
  const edges = { tripod: [0, 0, 0], slabs: [-THIRD, 0, -THIRD], "half-space": [0, 0] }[shape];
  return directions.map((w, k) => ({ w, b: edges[k] - w[0] * shift[0] - w[1] * shift[1] }));
}

// The half-spaces {⟨n, z⟩ ≥ c}, n of length 1, whose common part is the core of cell i: the points that have r_Z ≥ t.
export const core = (cells, i, t) =>
  cells.flatMap(({ w, b }, j) => {
    if (j === i) return [];
    const n = [cells[i].w[0] - w[0], cells[i].w[1] - w[1]];
    const length = Math.hypot(...n);
    return [{ n: n.map((v) => v / length), c: (b - cells[i].b) / length + t }];
  });

// The mass of the core that two half-spaces cut out. Parallel: a slab, or a half-space. Otherwise a wedge: in polar
// coordinates about its apex a, along e, ∫ exp(−|a + re|²/2) r dr / 2π is exp(−|a|²/2)/2π − m exp((m² − |a|²)/2) Φ(−m) / √2π
// with m = ⟨a, e⟩; Gauss's rule, in panels, adds up the directions e.
function mass(sides) {
  const [p, q] = [sides[0], sides[sides.length - 1]];
  const sine = p.n[0] * q.n[1] - p.n[1] * q.n[0];
  if (Math.abs(sine) < 1e-9) {
    const same = p.n[0] * q.n[0] + p.n[1] * q.n[1] > 0;
    return same ? upperTail(Math.max(p.c, q.c)) : Math.max(0, upperTail(p.c) - upperTail(-q.c));
  }
  const apex = [(p.c * q.n[1] - q.c * p.n[1]) / sine, (q.c * p.n[0] - p.c * q.n[0]) / sine];
  const square = apex[0] ** 2 + apex[1] ** 2;
  const start = Math.atan2(p.n[1] + q.n[1], p.n[0] + q.n[0]);
  const half = (Math.PI - Math.acos(p.n[0] * q.n[0] + p.n[1] * q.n[1])) / 2;
  const along = (angle) => {
    const m = apex[0] * Math.cos(angle) + apex[1] * Math.sin(angle);
    return Math.exp(-square / 2) / (2 * Math.PI) - (m * Math.exp((m * m - square) / 2) * upperTail(m)) / SQRT_2PI;
  };
  let sum = 0;
  for (let k = 0; k < PANELS; k++)
    for (const [node, weight] of GAUSS) sum += weight * along(start + half * ((2 * k + 1 + node) / PANELS - 1));
  return (sum * half) / PANELS;
}

// The shares of the cells, P(r_Z ≤ t), and the bound (4) for these shares.
const masses = (cells, t) => cells.map((_, i) => mass(core(cells, i, t)));
export const shares = (cells) => masses(cells, 0);
export const law = (cells, t) => Math.max(0, 1 - masses(cells, t).reduce((sum, one) => sum + one, 0));
export const floor = (p, t) =>
  p.reduce((sum, one) => {
    const a = -quantile(one);
    return one > 0 && one < 1 ? sum + upperTail(a) - upperTail(a + t) : sum;
  }, 0);

// Theorem 3 for two lines that cut the circle: functions of companion/transferability.py, for equal offsets.
import { arc } from "./circle_math.js";
import { cdf, quantile } from "./normal.js";

const onCircle = (z) => [Math.cos(2 * Math.PI * z), Math.sin(2 * Math.PI * z)];

// The direction of h, in degrees: f's, turned until the two disagree on δ of the data. A turn by τ of the circle makes
// two arcs of length τ on which they do; a wrapped N(0, 1) is uniform to within 1e-8.
export const secondAngle = (angle, delta) => angle + 180 * delta;

const signed = (angle, offset, [a, b]) => {
  const turn = (angle * Math.PI) / 180;
  return a * Math.cos(turn) + b * Math.sin(turn) - offset;
};

// From x = g(z): the distances to either line, the shortest v that fools both, straight and along the circle, and where
// they end. `along` is Infinity where no point of the circle fools both.
export function joint(angle, offset, delta, z) {
  const angles = [angle, secondAngle(angle, delta)];
  const x = onCircle(z);
  const across = angles.map((one) => signed(one, offset, x));
  const changed = (p) => angles.every((one, k) => (across[k] > 0 ? 1 : -1) * signed(one, offset, p) <= 1e-9);
  const normals = angles.map((one) => onCircle(one / 360));
  const ends = normals.map((n, k) => [x[0] - across[k] * n[0], x[1] - across[k] * n[1]]);
  const sine = normals[0][0] * normals[1][1] - normals[0][1] * normals[1][0];
  // Where the lines cross: on the bisector of their normals.
  if (Math.abs(sine) > 1e-12) {
    const middle = onCircle((angles[0] + angles[1]) / 720);
    const far = offset / Math.cos(((angles[1] - angles[0]) * Math.PI) / 360);
    ends.push([far * middle[0], far * middle[1]]);
  }
  const length = (p) => (p ? Math.hypot(p[0] - x[0], p[1] - x[1]) : Infinity);
  const nearest = (points) => points.filter(changed).reduce((best, p) => (length(p) < length(best) ? p : best), null);
  const borders = angles.flatMap((one) => [-1, 1].map((side) => onCircle(one / 360 + side * arc(one, offset).halfWidth)));
  const [freeEnd, alongEnd] = [nearest(ends), nearest(borders)];
  return {
    single: across.map(Math.abs), signs: across.map((v) => (v > 0 ? 1 : -1)),
    free: length(freeEnd), freeEnd, along: length(alongEnd), alongEnd,
  };
}

// The share of the circle that one v with ‖v‖ ≤ η fools: the fraction of a fine grid, its ends refined by bisection.
export function fooled(angle, offset, delta, eta, steps = 360) {
  const inside = (turn) => joint(angle, offset, delta, turn).free <= eta;
  let share = 0;
  let start = inside(0);
  for (let k = 0; k < steps; k++) {
    const end = inside((k + 1) / steps);
    if (start === end) share += start / steps;
    else {
      let [low, high] = [k / steps, (k + 1) / steps];
      for (let i = 0; i < 40; i++) {
        const middle = (low + high) / 2;
        if (inside(middle) === start) low = middle;
        else high = middle;
      }
      share += start ? low - k / steps : (k + 1) / steps - low;
    }
    start = end;
  }
  return share;
}

// The bound of Theorem 3 from the unions U_i: 1 − δ − Σ ψ(ν(U_i)), with t = ω⁻¹(η) of the circle; 0 where negative.
export function transferBound(offset, delta, eta) {
  if (eta >= 2) return 1 - delta;
  const t = Math.asin(eta / 2) / Math.PI;
  const one = 2 * arc(0, offset).halfWidth;
  const left = (u) => (u >= 1 ? 1 : cdf(quantile(u) - t));
  return Math.max(0, 1 - delta - left(one + delta / 2) - left(1 - one + delta / 2));
}

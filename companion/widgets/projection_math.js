// Theorem 2 for a half-plane on the circle: functions of companion/circle.py and companion/projection.py.
import { radii } from "./circle_math.js";

const onCircle = (z) => [Math.cos(2 * Math.PI * z), Math.sin(2 * Math.PI * z)];
const between = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]);

// The latent, in (−½, ½], of the point of the circle nearest to y.
export const nearest = ([a, b]) => Math.atan2(b, a) / (2 * Math.PI);

// The label of any point of the plane, by f.
export function labelOf(angle, offset, [a, b]) {
  const turn = (angle * Math.PI) / 180;
  return a * Math.cos(turn) + b * Math.sin(turn) > offset ? 1 : 0;
}

// r_unc(f̃; g(z)): f̃ has two rays as its boundary, and the end of the nearer one, the centre, is 1 away.
export function projectedRadius(angle, offset, z) {
  const { latent } = radii(angle, offset, z);
  return latent === Infinity ? Infinity : Math.sin(2 * Math.PI * Math.min(latent, 0.25));
}

// What the proof of Theorem 2 makes of y = x + r: the point P(y), and whether f̃ changes there.
export function witness(angle, offset, z, y) {
  const latent = nearest(y);
  const [x, image] = [onCircle(z), onCircle(latent)];
  const changed = labelOf(angle, offset, image) !== labelOf(angle, offset, x);
  return { latent, length: between(x, y), distance: between(x, image), residual: between(y, image), changed };
}

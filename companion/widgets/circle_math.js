// The circle g(z) = (cos 2πz, sin 2πz), cut by a line: the functions of companion/circle.py.
import { upperTail } from "./normal.js";

// The part of the circle in class 1 is an arc: its centre and half-width, in turns.
export function arc(angle, offset) {
  return { centre: angle / 360, halfWidth: Math.acos(Math.min(1, Math.max(-1, offset))) / (2 * Math.PI) };
}

export function classProbabilities(angle, offset) {
  const { centre, halfWidth } = arc(angle, offset);
  let inside = 0;
  for (let turn = -40; turn <= 40; turn++) {
    const middle = Math.abs(turn + centre);
    inside += upperTail(middle - halfWidth) - upperTail(middle + halfWidth);
  }
  return [1 - inside, inside];
}

// The three radii of g(z), the boundary point nearest to z, and the class of g(z).
export function radii(angle, offset, z) {
  const { centre, halfWidth } = arc(angle, offset);
  const turns = z - centre;
  const fromCentre = turns - Math.round(turns);
  const side = fromCentre < 0 ? -1 : 1;
  const single = halfWidth === 0 || halfWidth === 0.5;
  const latent = single ? Infinity : Math.abs(Math.abs(fromCentre) - halfWidth);
  const across = Math.cos(2 * Math.PI * z - (angle * Math.PI) / 180);
  return {
    latent,
    inDistribution: single ? Infinity : 2 * Math.sin(Math.PI * Math.min(latent, 0.5)),
    unconstrained: Math.abs(across - offset),
    boundary: single ? null : z + side * halfWidth - fromCentre,
    label: across > offset ? 1 : 0,
  };
}

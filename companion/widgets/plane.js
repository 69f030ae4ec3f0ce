// A square picture of the plane: `unit` pixels a unit, the origin in the middle; angles in turns.
import { path, svg } from "./view.js";

export function plane(size, unit) {
  const middle = size / 2;
  const at = ([x, y]) => [middle + unit * x, middle - unit * y];
  const on = (turn, radius = 1) => [radius * Math.cos(2 * Math.PI * turn), radius * Math.sin(2 * Math.PI * turn)];
  // The arc of a circle about the origin, and the point `across` along the line with this normal and offset.
  const sweep = (from, to, radius = 1) =>
    `M${at(on(from, radius))}A${unit * radius} ${unit * radius} 0 ${Math.abs(to - from) > 0.5 ? 1 : 0} ${to > from ? 0 : 1} ${at(on(to, radius))}`;
  const along = (turn, offset, across) => {
    const [c, s] = on(turn);
    return at([offset * c - across * s, offset * s + across * c]);
  };
  const lineOf = (turn, offset) => path([along(turn, offset, -9), along(turn, offset, 9)]);
  const sideOf = (turn, offset) => `${path([along(turn, offset, -9), along(turn, offset, 9), along(turn, 9, 9), along(turn, 9, -9)])}Z`;
  const from = (x, y) => [(x - middle) / unit, (middle - y) / unit];
  return { at, on, sweep, along, lineOf, sideOf, from };
}

// A bell of paper over a picture of the plane: what is far out weighs little under N(0, I).
export function bell(size, unit, most = 0.94) {
  const stops = [0, 0.5, 1, 1.5, 2, 2.5, 3].map((r) => svg("stop", { offset: r / 3, "stop-color": "var(--paper)", "stop-opacity": most * (1 - Math.exp((-r * r) / 2)) }));
  const shade = svg("radialGradient", { id: "bell", gradientUnits: "userSpaceOnUse", cx: size / 2, cy: size / 2, r: 3 * unit }, ...stops);
  return [svg("defs", {}, shade), svg("rect", { width: size, height: size, fill: "url(#bell)" })];
}

// Of a convex polygon, what lies where a·x + b·y ≥ c.
export function clip(polygon, [a, b], c) {
  const value = ([x, y]) => a * x + b * y - c;
  return polygon.flatMap((p, k) => {
    const q = polygon[(k + 1) % polygon.length];
    const [u, v] = [value(p), value(q)];
    const cut = u * v < 0 ? [[p[0] + ((q[0] - p[0]) * u) / (u - v), p[1] + ((q[1] - p[1]) * u) / (u - v)]] : [];
    return u >= 0 ? [p, ...cut] : cut;
  });
}
export const square = (half) => [[-half, -half], [half, -half], [half, half], [-half, half]];

// Pictures of 8 × 8 digits, in any theme on white.
import { COLOURS, svg } from "./view.js";

const SIDE = 8;
const cell = (k, [x, y], size, more) => {
  const step = size / SIDE;
  return svg("rect", { x: x + (k % SIDE) * step, y: y + Math.floor(k / SIDE) * step, width: step, height: step, ...more });
};
const sheet = ([x, y], size) => svg("rect", { x, y, width: size, height: size, fill: "#fff" });

// Ink from 0 to 1.
export const ink = (values, at, size) =>
  svg("g", { "shape-rendering": "crispEdges" }, sheet(at, size),
    ...[...values].flatMap((v, k) => (v > 0 ? [cell(k, at, size, { fill: "#000", opacity: v })] : [])));

// Blue where ink was added, red where it was taken away; the strongest change is full colour.
export function change(values, at, size) {
  const most = Math.max(...values.map(Math.abs)) || 1;
  return svg("g", { "shape-rendering": "crispEdges" }, sheet(at, size),
    ...[...values].flatMap((v, k) => (v ? [cell(k, at, size, { fill: v > 0 ? COLOURS.class0 : COLOURS.class1, opacity: Math.abs(v) / most })] : [])));
}

// A frame: of what is chosen, of what is fooled.
export const framed = ([x, y], size, colour) =>
  svg("rect", { x: x - 2, y: y - 2, width: size + 4, height: size + 4, rx: 2, fill: "none", stroke: colour, "stroke-width": 3 });

// Sets of squares on the plane of N(0, I): how heavy they are, and all that is within t of them.
import { cdf, density, quantile } from "./normal.js";

export const COUNT = 48; // squares in a row and in a column
export const CELL = 1 / 8; // their side; the plane is painted from −3 to 3
const EDGE = (COUNT * CELL) / 2;

// The sets to begin with; row and column are counted from below and from the left.
const middle = (k) => (k + 0.5) * CELL - EDGE;
const SHAPES = {
  "half-space": (row, column) => middle(column) < -0.625,
  disc: (row, column) => Math.hypot(middle(row), middle(column)) < 0.76,
  stripes: (row, column) => column % 8 === 0 || column % 8 === 7,
  checkerboard: (row, column) => ((row >> 2) + (column >> 2)) % 2 === 0,
  nothing: () => false,
};

// The squares of a set, row after row, as booleans: of a shape, or of `cells`, a hexadecimal digit for each four.
export function squares(shape, cells) {
  const every = Array.from({ length: COUNT * COUNT }, (_, k) => k);
  if (shape !== "own") return every.map((k) => SHAPES[shape](Math.floor(k / COUNT), k % COUNT));
  return every.map((k) => cells !== "" && ((parseInt(cells[k >> 2], 16) >> (3 - (k & 3))) & 1) === 1);
}
export const packed = (painted) =>
  Array.from({ length: painted.length / 4 }, (_, k) => [8, 4, 2, 1].reduce((sum, bit, j) => sum + (painted[4 * k + j] ? bit : 0), 0).toString(16)).join("");

// The squares whose middle is within `radius` of [x, y], and that of [x, y] itself, become `value`.
export function brushed(painted, [x, y], radius, value) {
  const under = ([a, b]) => Math.hypot(a - x, b - y) <= radius || Math.max(Math.abs(a - x), Math.abs(b - y)) <= CELL / 2;
  return painted.map((old, k) => (under([middle(k % COUNT), middle(Math.floor(k / COUNT))]) ? value : old));
}

// The set column after column: its left edge, the stretches [from, to] of its squares, and the number of this pattern.
export function columns(painted) {
  const found = [];
  const patterns = [];
  for (let column = 0; column < COUNT; column++) {
    const runs = [];
    for (let row = 0; row < COUNT; row++) {
      if (!painted[row * COUNT + column]) continue;
      const low = row * CELL - EDGE;
      if (runs.length && runs[runs.length - 1][1] === low) runs[runs.length - 1][1] = low + CELL;
      else runs.push([low, low + CELL]);
    }
    const key = runs.join();
    if (!patterns.includes(key)) patterns.push(key);
    if (runs.length) found.push({ left: column * CELL - EDGE, runs, pattern: patterns.indexOf(key) });
  }
  return found;
}

const between = (low, high) => (low > 0 ? cdf(-low) - cdf(-high) : cdf(high) - cdf(low));
export const mass = (set) => set.reduce((sum, { left, runs }) => sum + between(left, left + CELL) * runs.reduce((all, run) => all + between(...run), 0), 0);

// Gauss's rule of six points, on so many pieces of [0, 1], after x = 3u² − 2u³, which takes roots at both ends.
const GAUSS = [[0.2386191860831969, 0.467913934572691], [0.6612093864662645, 0.3607615730481386], [0.9324695142031521, 0.1713244923791704]]
  .flatMap(([node, weight]) => [[-node, weight], [node, weight]]);
const rule = (pieces) =>
  Array.from({ length: pieces }, (_, k) => GAUSS.map(([node, weight]) => {
    const u = (k + (1 + node) / 2) / pieces;
    return [u * u * (3 - 2 * u), (3 * u * (1 - u) * weight) / pieces];
  })).flat();

// The mass of all points within t > 0 of the set, slice by slice: at x the squares of a column at the distance d reach
// √(t² − d²) further. Between the places where d is 0 or t the sum over x is smooth but for kinks, for which there
// are `pieces`: off by less than 1e-4 with three, 1e-3 with one.
export function enlarged(set, t, pieces = 3) {
  const nodes = rule(pieces);
  if (t === 0) return mass(set);
  const rest = t % CELL;
  const parts = [...new Set([0, rest, CELL - rest].map((v) => +v.toFixed(9)))].filter((v) => v < CELL - 1e-9).sort((a, b) => a - b);
  const cells = Math.ceil((EDGE + t) / CELL);
  let sum = 0;
  for (let k = -cells; k < cells; k++)
    parts.forEach((part, i) => {
      const width = (parts[i + 1] ?? CELL) - part;
      for (const [node, weight] of nodes) {
        const x = k * CELL + part + node * width;
        sum += weight * width * density(x) * slice(set, t, x);
      }
    });
  return sum;
}

// The mass of the slice at x, under N(0, 1). Of columns with the same pattern the nearest reaches furthest.
function slice(set, t, x) {
  const found = [];
  const nearest = [];
  for (const { left, runs, pattern } of set) {
    const d = Math.max(0, left - x, x - left - CELL);
    if (d < (nearest[pattern]?.d ?? t)) nearest[pattern] = { d, runs };
  }
  for (const { d, runs } of nearest.filter(Boolean)) {
    const more = Math.sqrt(t * t - d * d);
    for (const [low, high] of runs) found.push([low - more, high + more]);
  }
  found.sort((a, b) => a[0] - b[0]);
  let sum = 0;
  let top = -Infinity;
  let bottom = 0;
  for (const [low, high] of found) {
    if (low > top) {
      if (top > -Infinity) sum += between(bottom, top);
      bottom = low;
    }
    top = Math.max(top, high);
  }
  return top > -Infinity ? sum + between(bottom, top) : 0;
}

// What the half-space of the same mass becomes, Φ(Φ⁻¹(p) + t).
export const halfSpace = (p, t) => (p > 0 ? cdf(quantile(p) + t) : 0);

// The generator of digits: its images, and how steep it is. Linear layers with SiLU between them and a sigmoid at the end.
import { bytes } from "./bytes.js";

// The layers from what is stored: rows of integers of 8 bits, a scale for each row, and a bias.
export const unpacked = (layers) =>
  layers.map(({ values, scale, bias }) => {
    const whole = new Int8Array(bytes(values).buffer);
    const columns = whole.length / scale.length;
    return { columns, bias, weights: Float64Array.from(whole, (v, k) => v * scale[Math.floor(k / columns)]) };
  });

// Four sums side by side: a processor does not wait for one to be ready before it begins the next. All layers have a
// multiple of four columns.
function product({ columns, weights, bias }, vector, shift) {
  const out = new Float64Array(bias.length);
  for (let i = 0, at = 0; i < out.length; i++) {
    let [a, b, c, d] = [shift ? bias[i] : 0, 0, 0, 0];
    for (let j = 0; j < columns; j += 4, at += 4) {
      a += weights[at] * vector[j];
      b += weights[at + 1] * vector[j + 1];
      c += weights[at + 2] * vector[j + 2];
      d += weights[at + 3] * vector[j + 3];
    }
    out[i] = a + b + (c + d);
  }
  return out;
}

// The image at z, and the derivatives of the image in these directions.
export function push(layers, z, directions = []) {
  let values = z;
  let moves = directions;
  layers.forEach((layer, k) => {
    values = product(layer, values, true);
    moves = moves.map((move) => product(layer, move, false));
    const gate = values.map((v) => 1 / (1 + Math.exp(-v)));
    const last = k === layers.length - 1;
    const slopes = gate.map((s, i) => s * (last ? 1 - s : 1 + values[i] * (1 - s)));
    values = last ? gate : values.map((v, i) => v * gate[i]);
    for (const move of moves) slopes.forEach((slope, i) => { move[i] *= slope; });
  });
  return { image: values, moves };
}

export const unit = (size, k) => Array.from({ length: size }, (_, i) => (i === k ? 1 : 0));
export const gap = (a, b) => Math.sqrt(a.reduce((sum, v, k) => sum + (v - b[k]) ** 2, 0));

// The largest singular value of the derivatives: of their products' matrix the largest eigenvalue, by Jacobi's rotations.
export function steepest(moves) {
  const n = moves.length;
  const a = moves.map((u) => moves.map((v) => u.reduce((sum, one, i) => sum + one * v[i], 0)));
  const size = a.reduce((sum, row, i) => sum + row[i], 0);
  for (let sweep = 0; sweep < 30; sweep++) {
    let rest = 0;
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        rest += a[p][q] ** 2;
        if (a[p][q] === 0) continue;
        const angle = 0.5 * Math.atan2(2 * a[p][q], a[q][q] - a[p][p]);
        const [c, s] = [Math.cos(angle), Math.sin(angle)];
        for (const row of a) [row[p], row[q]] = [c * row[p] - s * row[q], s * row[p] + c * row[q]];
        [a[p], a[q]] = [a[p].map((v, k) => c * v - s * a[q][k]), a[p].map((v, k) => s * v + c * a[q][k])];
      }
    if (rest <= 1e-30 * size * size) break;
  }
  return Math.sqrt(Math.max(0, ...a.map((row, i) => row[i])));
}

// The slope in all directions, or in some.
export const slope = (layers, z, directions = z.map((_, k) => unit(z.length, k))) => steepest(push(layers, z, directions).moves);

// The latent after a step of (x, y) along two of the coordinates, and how long the step is.
export const stepped = (start, [across, up], [x, y]) => start.map((v, k) => v + (k === across ? x : 0) + (k === up ? y : 0));

// What is stored at places t, from (0, 0) on along straight lines; null beyond the last.
export function along(places, values, t) {
  const k = places.findIndex((place) => place >= t);
  if (k < 0) return null;
  const [t0, v0] = k ? [places[k - 1], values[k - 1]] : [0, 0];
  return v0 + ((t - t0) / (places[k] - t0)) * (values[k] - v0);
}

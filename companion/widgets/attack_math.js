// A network of linear layers and ReLUs with its gradient, and three attacks on it: functions of companion/attacks.
import { halves, levels } from "./bytes.js";

export const STEPS = 10;
export const GRID = Array.from({ length: 51 }, (_, k) => k / 100); // the sizes that the slider has
const BOX = (v) => Math.min(1, Math.max(0, v));

// The weights and the digits that are stored.
export const stored = ({ layers, digits, greys }) => ({
  layers: layers.map(({ weight, bias }) => ({ weight: halves(weight), bias: halves(bias) })),
  digits: digits.map((text) => levels(text, greys)),
});

// What enters each layer, and the logits.
function pass(layers, x) {
  const values = [x];
  layers.forEach(({ weight, bias }, k) => {
    const from = values[k];
    const to = new Float64Array(bias.length);
    for (let i = 0, place = 0; i < to.length; i++) {
      let sum = bias[i];
      for (let j = 0; j < from.length; j++) sum += weight[place++] * from[j];
      to[i] = k < layers.length - 1 && sum < 0 ? 0 : sum;
    }
    values.push(to);
  });
  return values;
}
export const logits = (layers, x) => pass(layers, x).at(-1);

// The gradient in the image of Σ weights[k] logits[k].
function pullBack(layers, values, weights) {
  let back = weights;
  for (let k = layers.length - 1; k >= 0; k--) {
    const { weight } = layers[k];
    const from = values[k];
    const next = new Float64Array(from.length);
    for (let i = 0; i < back.length; i++) {
      const [v, row] = [back[i], i * from.length];
      if (v !== 0) for (let j = 0; j < next.length; j++) next[j] += v * weight[row + j];
    }
    if (k) for (let j = 0; j < next.length; j++) if (!(from[j] > 0)) next[j] = 0;
    back = next;
  }
  return back;
}

function softmax(z) {
  const top = Math.max(...z);
  const powers = z.map((v) => Math.exp(v - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((v) => v / sum);
}
export const probabilities = (layers, x) => softmax(logits(layers, x));
export const labelOf = (values) => values.indexOf(Math.max(...values));

// The gradient of the cross-entropy.
export function lossGradient(layers, x, y) {
  const values = pass(layers, x);
  const shares = softmax(values.at(-1));
  shares[y] -= 1;
  return pullBack(layers, values, shares);
}

// FGSM in one step or many.
export function climb(layers, x, y, eps, steps) {
  let point = x;
  for (let n = 0; n < steps; n++) {
    const gradient = lossGradient(layers, point, y);
    point = point.map((v, k) => {
      const change = v + (eps / steps) * Math.sign(gradient[k]) - x[k];
      return BOX(x[k] + Math.min(eps, Math.max(-eps, change)));
    });
  }
  return point;
}

// DeepFool: to the nearest border of the linearised network, until the label changes.
export function deepfool(layers, x, y, steps = 50, overshoot = 0.02) {
  const [second, first] = [...logits(layers, x)].sort((a, b) => a - b).slice(-2);
  const total = new Float64Array(x.length);
  let point = x;
  for (let n = 0; n < steps && labelOf(logits(layers, point)) === y; n++) {
    const values = pass(layers, point);
    const z = values.at(-1);
    let best = { distance: Infinity };
    z.forEach((value, j) => {
      if (j === y) return;
      const normal = pullBack(layers, values, z.map((_, k) => (k === j) - (k === y)));
      const length = Math.hypot(...normal);
      const distance = (Math.abs(value - z[y]) + 1e-5 * (first - second)) / length;
      if (distance < best.distance) best = { distance, normal, length };
    });
    if (best.distance === Infinity) return x;
    best.normal.forEach((v, k) => { total[k] += (best.distance * v) / best.length; });
    point = x.map((v, k) => BOX(v + (1 + overshoot) * total[k]));
  }
  return labelOf(logits(layers, point)) === y ? x : point;
}

// The attack as a function of the size: the largest change of a pixel. The smallest change is drawn out to that size.
export function attackOn(layers, x, y, attack) {
  if (attack !== "smallest change") return (eps) => climb(layers, x, y, eps, attack === "one step" ? 1 : STEPS);
  const change = deepfool(layers, x, y).map((v, k) => v - x[k]);
  const largest = Math.max(...change.map(Math.abs));
  return (eps) => x.map((v, k) => BOX(v + (largest && (eps / largest) * change[k])));
}

export const lengthOf = (x, image) => Math.hypot(...image.map((v, k) => v - x[k]));

// At all sizes of the slider: how likely the right label is; and the first size with another label, with the length
// of that change (null if there is none).
export function course(layers, x, y, attack) {
  const made = attackOn(layers, x, y, attack);
  const found = GRID.map((eps) => { const image = made(eps); return { eps, image, shares: probabilities(layers, image) }; });
  const first = found.find(({ shares }) => labelOf(shares) !== y);
  return { right: found.map(({ shares }) => shares[y]), first: first ? { eps: first.eps, length: lengthOf(x, first.image) } : null };
}

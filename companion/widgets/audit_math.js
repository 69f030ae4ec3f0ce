// The audit of a printed bound: t_q for K equally likely classes, relative to the norm of a latent in d dimensions.
import { bound, boundQuantile } from "./theorem1_math.js";

// What the paper's tables print, and the numbers that two digits round to it: from LOW, below HIGH.
export const PRINTED = "0.016";
export const [LOW, HIGH] = [0.0155, 0.0165];

// E‖z‖ = √2 Γ((d+1)/2) / Γ(d/2), from √(2/π) in one dimension: the product of two neighbours is the smaller d.
export function meanNorm(latentDim) {
  let norm = Math.sqrt(2 / Math.PI);
  for (let d = 1; d < latentDim; d++) norm = d / norm;
  return norm;
}

// t_q, t_q / E‖z‖ and t_q / √d.
export function audit({ q, num_classes: numClasses, latent_dim: latentDim }) {
  const t = boundQuantile(q, numClasses);
  return { t, mean: t / meanNorm(latentDim), root: t / Math.sqrt(latentDim) };
}

export const digits = (value) => String(+value.toPrecision(2));

// The quantiles q from `low` to `high` with LOW ≤ t_q / norm < HIGH: what (4) says at t = LOW norm and HIGH norm.
export const quantiles = (numClasses, norm) => [bound(LOW * norm, numClasses), bound(HIGH * norm, numClasses)];

// The first of the integers from `low` to `high` at which a falling function is below `value`; high + 1 if none.
function firstBelow(value, falling, low, high) {
  let [from, to] = [low, high + 1];
  while (from < to) {
    const middle = Math.floor((from + to) / 2);
    if (falling(middle) < value) to = middle;
    else from = middle + 1;
  }
  return from;
}

// The integers, first and last, at which a falling function rounds to the printed number; empty if first > last.
const rounding = (falling, low, high) => [firstBelow(HIGH, falling, low, high), firstBelow(LOW, falling, low, high) - 1];
export const classCounts = ({ q, latent_dim: latentDim }, high) => {
  const norm = meanNorm(latentDim);
  return rounding((numClasses) => boundQuantile(q, numClasses) / norm, 2, high);
};
export const dimensions = ({ q, num_classes: numClasses }, high) => {
  const t = boundQuantile(q, numClasses);
  return rounding((latentDim) => t / meanNorm(latentDim), 1, high);
};

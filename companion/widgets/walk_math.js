// A walk of stored frames: what is between two of them, and where the image has moved how far.

// Levels at `place`, in frames from the first one: the parabola through the three nearest, inside 0 to 255.
export function blend(frames, place) {
  const middle = Math.min(Math.max(Math.round(place), 1), frames.length - 2);
  const x = place - middle;
  const [before, here, after] = [-1, 0, 1].map((k) => frames[middle + k]);
  return Array.from(here, (v, k) => Math.min(255, Math.max(0, v + (x * (after[k] - before[k])) / 2 + (x * x * (after[k] - 2 * v + before[k])) / 2)));
}

// The first place, in steps, at which the image has moved by `radius`; null if it never does.
export function reach(moved, radius) {
  const after = moved.findIndex((value) => value >= radius);
  if (after < 1) return after < 0 ? null : 0;
  return after - (moved[after] - radius) / (moved[after] - moved[after - 1]);
}

// About three round numbers from 0 up to `high`.
export function roundNumbers(high) {
  const power = 10 ** Math.floor(Math.log10(high / 3));
  const step = [1, 2, 5, 10].find((k) => k * power >= high / 3.5) * power;
  return Array.from({ length: Math.floor(high / step) + 1 }, (_, k) => +(k * step).toPrecision(6));
}

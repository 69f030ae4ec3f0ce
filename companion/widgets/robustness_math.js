// A spiral g(z) = 0.6 e^{z/4} (cos πz, sin πz), cut by a wavy wall: the three radii of g(z), and a search for each.
import { quantile } from "./normal.js";

export const image = (z) => [Math.cos(Math.PI * z), Math.sin(Math.PI * z)].map((v) => 0.6 * Math.exp(z / 4) * v);
// The Jacobian of g; its square, the pull-back metric, is (1/16 + π²) |g(z)|².
export const jacobian = (z) => { const [x, y] = image(z); return [x / 4 - Math.PI * y, Math.PI * x + y / 4]; };

// Where the wall stands at height y; f gives class 1 to what is to its right.
export const wallAt = (y, { wave, shift }) => shift + wave * Math.cos(5 * y + 1) + y / 4;
export const margin = ([x, y], wall) => x - wallAt(y, wall);
const gradient = ([, y], { wave }) => [1, 5 * wave * Math.sin(5 * y + 1) - 1 / 4];

const dotted = (a, b) => a.reduce((sum, v, k) => sum + v * b[k], 0);
const between = (a, b, s) => a.map((v, k) => v + s * (b[k] - v));
export const distance = (a, b) => Math.hypot(...a.map((v, k) => v - b[k]));

// Of [from, to], where `over` changes from false to true; what is returned is over.
function crossing(over, from, to) {
  for (let k = 0; k < 52; k++) {
    const middle = between(from, to, 0.5);
    if (over(middle)) to = middle;
    else from = middle;
  }
  return to;
}

// The least value of a function with one minimum in [low, high]: its place.
function least(f, low, high) {
  for (let k = 0; k < 80; k++) {
    const third = (high - low) / 3;
    if (f(low + third) < f(high - third)) high -= third;
    else low += third;
  }
  return (low + high) / 2;
}

// On which side of the wall x is, and whether another point has the other label.
const sides = (x, wall) => { const sign = margin(x, wall) > 0 ? -1 : 1; return (y) => sign * margin(y, wall) >= 0; };

// The three radii of g(z), each with its witness. The latents from −8 to 6 are tried in steps of 0.004, the wall at 800
// heights; then every crossing and every minimum is refined.
export function radii(z, wall) {
  const x = image(z);
  const over = sides(x, wall);
  const away = (p) => distance(image(p), x);
  const grid = Array.from({ length: 3501 }, (_, k) => { const p = k / 250 - 8; return { p, over: over(image(p)), away: away(p) }; });
  const near = [{ p: z, over: false, away: 0 }, ...grid].sort((a, b) => a.p - b.p);
  const roots = [];
  const valleys = [];
  for (let k = 1; k < near.length - 1; k++) {
    const [a, b, c] = [near[k - 1], near[k], near[k + 1]];
    if (a.over !== b.over) roots.push(crossing(([p]) => over(image(p)), ...(b.over ? [[a.p], [b.p]] : [[b.p], [a.p]]))[0]);
    if (a.over && b.over && c.over && b.away <= a.away && b.away <= c.away) valleys.push(least(away, a.p, c.p));
  }
  const nearest = (places, far) => places.reduce((best, p) => (far(p) < best.radius ? { p, radius: far(p) } : best), { p: null, radius: Infinity });
  const reach = Math.abs(margin(x, wall)); // straight across to the wall
  const height = (k) => x[1] + (k / 400 - 1) * reach;
  const gap = (y) => distance([wallAt(y, wall), y], x);
  const bays = [];
  for (let k = 0; k <= 800; k++)
    if (gap(height(k)) <= Math.min(gap(height(k - 1)), gap(height(k + 1)))) bays.push(least(gap, height(k - 1), height(k + 1)));
  const free = nearest(bays, gap);
  return {
    label: margin(x, wall) > 0 ? 1 : 0,
    latent: nearest(roots, (p) => Math.abs(p - z)),
    inDistribution: nearest([...roots, ...valleys], away),
    unconstrained: { radius: free.radius, point: [wallAt(free.p, wall), free.p] },
  };
}

// Quantiles of the prior, some twice and three times as far out. The search for r_in begins at the nearest image of the
// other class among these and what the search for r_Z has found.
const POOL = Array.from({ length: 24 }, (_, k) => (1 + (k % 3)) * quantile((k + 0.5) / 24));

// How far along its ray a step is followed, if it falls short of the wall.
const RAY = Array.from({ length: 12 }, (_, k) => 1.25 ** k);

// A search, step after step. Each is where it has come to (its image `at`, its latent `p` if it has one), how far that is, ∞
// while the label is the old one, and how it came there: the wall was linearised at `base`, the spiral along `tangent`.
export function search(kind, z, wall, steps) {
  const x = image(z);
  const over = sides(x, wall);
  const found = (at, radius, more) => ({ at, radius: over(at) ? radius : Infinity, ...more });
  const line = (base) => ({ base, height: margin(base, wall), normal: gradient(base, wall) });
  const path = [];
  if (kind === "r_in") {
    const latent = search("r_Z", z, wall, steps).map((one) => one.p);
    const starts = [...latent, ...POOL].filter((p) => over(image(p))).sort((a, b) => distance(image(a), x) - distance(image(b), x));
    let p = starts[0];
    path.push(found(image(p), distance(image(p), x), { p }));
    for (let k = 0; k < steps; k++) {
      const [y, speed] = [image(p), jacobian(p)];
      const normal = dotted(gradient(y, wall), speed);
      // To the foot of x on the tangent, measured by the pull-back metric; if that is across the linearised wall, to the wall.
      const foot = -dotted(speed, between(x, y, 1).map((v, i) => v - x[i])) / dotted(speed, speed);
      const sign = margin(x, wall) > 0 ? -1 : 1;
      const step = sign * (margin(y, wall) + normal * foot) >= 0 ? foot : -margin(y, wall) / normal;
      for (let s = 1; s > 0.01; s /= 2) {
        let q = p + s * step;
        if (!over(image(q))) q = crossing(([v]) => over(image(v)), [q], [p])[0];
        if (distance(image(q), x) >= distance(image(p), x)) continue;
        p = q;
        break;
      }
      path.push(found(image(p), distance(image(p), x), { p, ...line(y), tangent: speed }));
    }
    return path;
  }
  // The clean point is projected on the wall as linearised at the last point, and the ray cut off at the true wall.
  const [clean, of, pulled] = kind === "r_unc" ? [x, (q) => q, (n) => n] : [[z], ([p]) => image(p), (n, [p]) => [dotted(n, jacobian(p))]];
  const across = (q) => over(of(q));
  let q = clean;
  const record = (more) => path.push(found(of(q), distance(q, clean), { ...(kind === "r_Z" && { p: q[0] }), ...more }));
  record({});
  for (let k = 0; k < steps; k++) {
    const base = of(q);
    const normal = pulled(gradient(base, wall), q);
    const miss = (margin(base, wall) + dotted(normal, between(q, clean, 1).map((v, i) => v - q[i]))) / dotted(normal, normal);
    const shorter = Math.min(1, 2 / (Math.abs(miss) * Math.hypot(...normal))); // a step of at most 2
    const aim = clean.map((v, i) => v - shorter * miss * normal[i]);
    const reached = RAY.map((s) => between(clean, aim, s)).find(across);
    const more = { ...line(base), ...(kind === "r_Z" && { tangent: jacobian(q[0]) }) };
    q = reached ? crossing(across, clean, reached) : aim;
    record(more);
  }
  return path;
}

// Four moduli of continuity, as companion/smoothness.py has them, their generalised inverses, and their graphs.

const REACH = 0.8; // how far the circle is measured, in latent units
const circle = (t) => 2 * Math.sin(Math.PI * Math.min(t, 0.5));

// The circle's modulus, measured at n equally spaced steps up to REACH.
export const measured = (n) => Array.from({ length: n }, (_, k) => (REACH * (k + 1)) / n).map((t) => [t, circle(t)]);

// ω(t). Between two measured points it is that of the next one, and nothing is known beyond the last.
export function omega(kind, n, t) {
  if (kind === "circle") return circle(t);
  if (kind === "lipschitz") return 2 * Math.PI * t;
  if (kind === "hoelder") return 2 * Math.sqrt(t);
  if (t === 0) return 0;
  return measured(n).find(([at]) => at >= t)?.[1] ?? Infinity;
}

// ω⁻¹(η) = sup{t : ω(t) ≤ η}.
export function inverse(kind, n, eta) {
  if (kind === "circle") return eta < 2 ? Math.asin(eta / 2) / Math.PI : Infinity;
  if (kind === "lipschitz") return eta / (2 * Math.PI);
  if (kind === "hoelder") return (eta / 2) ** 2;
  return measured(n).reduce((last, [t, value]) => (value <= eta ? t : last), 0);
}

// What ω is just after ω⁻¹(η): more than η at a stair, η where ω rises without a jump; none where it never exceeds η.
export function after(kind, n, eta) {
  const t = inverse(kind, n, eta);
  if (kind !== "staircase") return t === Infinity ? null : omega(kind, n, t);
  return measured(n).find(([at]) => at > t)?.[1] ?? Infinity;
}

// The graph of ω as a line from (0, 0) to t = `end` or ω = `top`, with its stairs; of ω⁻¹ with the coordinates exchanged.
export function graph(kind, n, end, top) {
  if (kind === "lipschitz") return [[0, 0], [top / (2 * Math.PI), top]];
  if (kind !== "staircase")
    return Array.from({ length: 201 }, (_, k) => (end * k * k) / 200 ** 2).map((t) => [t, omega(kind, n, t)]);
  const points = [[0, 0], ...measured(n)];
  const stairs = points.slice(1).flatMap(([t, value], k) => [[points[k][0], value], [t, value]]);
  return [[0, 0], ...stairs, [REACH, top]];
}

// A modulus of continuity, and its generalised inverse: along at height η until ω has risen above it for good.
import { COLOURS, blank, canvas, clamp, dash, drag, fixed, frame, html, legend, line, round, row, show, spot, swatch, target, widget, words } from "./view.js";
import { after, graph, inverse, measured } from "./modulus_math.js";

const WIDTH = 340;
const HEIGHT = 300;
const END = 1.25; // of the latent steps
const TOP = 2.25; // of the image distances
const MOST = 2.2; // the largest η
const T = { low: 0, high: END, ticks: [0, 0.25, 0.5, 0.75, 1, 1.25], text: String };
const ETA = { low: 0, high: TOP, ticks: [0, 0.5, 1, 1.5, 2], text: String };
const NAMES = { circle: "the circle's", lipschitz: "Lipschitz, 2πt", hoelder: "Hölder, 2√t", staircase: "the circle's, measured at some steps" };
const GREEN = COLOURS.inDistribution;
const edge = { top: 30, right: 18 };

// The part of a graph inside the picture: clamped at the first point beyond it.
const inside = (points, swapped) => points.map(([t, value]) => (swapped ? [Math.min(value, TOP), Math.min(t, END)] : [Math.min(t, END), Math.min(value, TOP)]));

// What one drags, on an axis: small enough to leave its numbers free.
const grab = (at) => [spot(at, 6.5), target(at, "eta", "drag: η", 18)];

function contract({ kind, points, eta }) {
  const { px, py, x0, x1, y0, y1, parts, curve } = frame({ width: WIDTH, height: HEIGHT, edge, x: { ...T, label: "t, latent step" }, y: ETA });
  const t = inverse(kind, points, eta);
  const stop = px(Math.min(t, END));
  if (kind === "staircase") {
    parts.push(line(curve(inside(graph("circle", 0, END, TOP))), "var(--muted)", 1.5, { "stroke-dasharray": "4 4" }));
    parts.push(...measured(points).map(([at, value]) => spot([px(at), py(value)], 3.5, "var(--ink)", "var(--paper)")));
  }
  parts.push(
    words([x0, y1 - 12], "ω(t), how far the image may move", { "text-anchor": "start" }),
    line(curve(inside(graph(kind, points, END, TOP))), "var(--ink)", 3, { "stroke-linejoin": "round" }),
    line(`M${x0} ${y0}H${stop}`, COLOURS.latent, 6),
    line(`M${x0} ${py(eta)}H${stop}${t > END ? "" : `V${y0}`}`, GREEN, 2.5, { "stroke-dasharray": "7 4" }),
    target([(x0 + x1) / 2, py(eta)], "eta", "drag: η", 16),
    ...(t > END ? [words([x1 - 4, y0 - 10], t === Infinity ? "→ ∞" : "→", { "text-anchor": "end", class: "halo" })] : [spot([stop, y0], 6, COLOURS.latent, "var(--paper)")]),
    ...grab([x0, py(eta)]),
  );
  return { parts, eta: (_, y) => ((y0 - y) / (y0 - y1)) * TOP };
}

function promises({ kind, points, eta }) {
  const { px, py, x0, y0, y1, parts, curve, value } = frame({ width: WIDTH, height: HEIGHT, edge, x: { ...ETA, label: "η, image distance" }, y: T });
  const t = inverse(kind, points, eta);
  const at = [px(eta), py(Math.min(t, END))];
  parts.push(
    words([x0, y1 - 12], "ω⁻¹(η), the step that is sure", { "text-anchor": "start" }),
    line(curve(inside(graph(kind, points, END, TOP), true)), "var(--ink)", 3, { "stroke-linejoin": "round" }),
    line(`M${px(eta)} ${y0}V${at[1]}H${x0}`, GREEN, 2.5, { "stroke-dasharray": "7 4" }),
    ...(t === Infinity ? [words([at[0] - 8, y1 + 18], "∞ ↑", { "text-anchor": "end", class: "halo" })] : []),
    spot(at, 6, COLOURS.latent, "var(--paper)"),
    ...grab([px(eta), y0]),
  );
  return { parts, eta: (x) => value(x) };
}

function summary({ kind, points, eta }) {
  const t = inverse(kind, points, eta);
  const next = after(kind, points, eta);
  const start = `The inverse of ω (${NAMES[kind].replace("some steps", points === 1 ? "one step" : `${points} steps`)}) at η = ${fixed(eta, 2)} is ${show(t)}: `;
  if (t === Infinity) return `${start}no latent step, however long, moves the image by more than ${fixed(eta, 2)}.`;
  const jump = next === Infinity ? " Beyond it nothing is known." : next > eta + 1e-9 ? ` Just after it ω is ${show(next)}.` : "";
  if (t === 0) return `${start}no step at all is sure to move the image by at most ${fixed(eta, 2)}.${jump}`;
  return `${start}latents less than ${show(t)} apart are sure to have images at most ${fixed(eta, 2)} apart.${jump}`;
}

export default widget(["kind", "points", "eta"], ({ set, slider, choice }) => {
  const pictures = [
    [canvas("The modulus over the latent step; along at height η to the inverse"), contract],
    [canvas("The inverse over η: flat where the modulus jumps, a jump where the modulus is flat"), promises],
  ];
  const rows = {
    eta: row(dash({ "stroke-dasharray": "7 4" }, GREEN), "<i>η</i> <small>the image may move</small>"),
    inverse: row(swatch(COLOURS.latent), "<i>ω</i>⁻¹(<i>η</i>) <small>sure up to here</small>"),
    after: row(blank(), "<i>ω</i> just after"),
  };
  const shown = [];
  pictures.forEach(([picture], k) => {
    picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    drag(picture, (_, x, y) => set({ eta: clamp(round(shown[k].eta(x, y), 0.01), 0, MOST) }));
  });
  const draw = (now) => {
    pictures.forEach(([picture, make], k) => {
      shown[k] = make(now);
      picture.replaceChildren(...shown[k].parts);
    });
    const { kind, points, eta } = now;
    rows.eta.value.textContent = fixed(eta, 2);
    rows.inverse.value.textContent = show(inverse(kind, points, eta));
    const next = after(kind, points, eta);
    rows.after.value.textContent = next === null ? "–" : show(next);
  };
  const nodes = [
    choice({ name: "kind", label: "modulus", options: NAMES }),
    html("div", { class: "columns controls" }, ...pictures.map(([picture]) => picture)),
    html("div", { class: "columns controls" },
      html("div", {},
        slider({ name: "eta", label: "<i>η</i>, image distance", max: MOST, step: 0.01, colour: GREEN, text: (v) => fixed(v, 2) }),
        slider({ name: "points", label: "steps that are measured", min: 1, max: 16, text: String })),
      legend(rows, { class: "centred" })),
  ];
  return { nodes, draw, summary };
});

// Theorem 1 for K equally likely classes: its bounds as curves over η.
import { COLOURS, area, blank, canvas, clamp, dash, drag, frame, html, legend, line, percent, row, show, svg, widget, words } from "./view.js";
import { balancedBound, bound, boundQuantile, equiprobableBound } from "./theorem1_math.js";

const decades = (from, to, each) =>
  Array.from({ length: (to - from) * each + 1 }, (_, k) => +(10 ** (from + k / each)).toPrecision(3));
const STOPS = {
  num_classes: [2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 30, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5],
  latent_dim: [1, 2, 3, 5, 10, 20, 32, 50, 64, 100, 128, 200, 256, 512, 1e3, 2e3, 5e3, 1e4],
  lipschitz: decades(-1, 2, 20),
  eta: decades(-2, 2, 40),
};
const [LOW, HIGH] = [-2, 2]; // powers of ten of η on the horizontal axis
const whole = (v) => v.toLocaleString("en-GB").replaceAll(",", "\u202f");

function picture({ num_classes: numClasses, latent_dim: latentDim, lipschitz, eta }, width, height) {
  const power = (v) => show(+v.toPrecision(1));
  const { px, py, x0, x1, y0, y1, parts, curve, grip } = frame({
    width, height, edge: { top: 50 },
    x: { low: 10 ** LOW, high: 10 ** HIGH, map: Math.log10, ticks: [0.01, 0.1, 1, 10, 100], text: power, label: "η, how far the image may move" },
    y: { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => `${100 * v}%` },
  });
  const grid = Array.from({ length: 201 }, (_, k) => 10 ** (LOW + ((HIGH - LOW) * k) / 200));
  const over = (f) => curve(grid.map((value) => [value, f(value / lipschitz)]).filter(([, v]) => v >= 0));
  const main = over((t) => bound(t, numClasses));
  parts.unshift(area(`${main}L${x1} ${y1}L${x0} ${y1}Z`, COLOURS.inDistribution, 0.17));
  // The upper axis measures the same move relative to a typical latent norm: η / (L √d).
  const unit = lipschitz * Math.sqrt(latentDim);
  for (let k = -9; k <= 6; k++) {
    const value = unit * 10 ** k;
    if (value < 10 ** LOW * 0.999 || value > 10 ** HIGH * 1.001) continue;
    parts.push(line(`M${px(value)} ${y1}v-5`, "var(--muted)"), words([px(value), y1 - 10], power(10 ** k)));
  }
  parts.push(
    words([(x0 + x1) / 2, 14], "t/√d, the same move relative to ‖z‖ ≈ √d"),
    line(over(balancedBound), "var(--muted)", 2, { "stroke-dasharray": "8 5" }),
  );
  if (numClasses >= 5)
    parts.push(line(over((t) => equiprobableBound(t, numClasses)), "var(--muted)", 2.5, { "stroke-dasharray": "0.1 5", "stroke-linecap": "round" }));
  parts.push(line(main, "var(--ink)", 3.5, { "stroke-linejoin": "round" }));
  const note = (x, y, lines) => lines.map((text, k) => words([x, y + 17 * k], text, { "text-anchor": "end", class: "halo" }));
  const middle = px(lipschitz * boundQuantile(0.6, numClasses));
  if (middle - x0 > 140) parts.push(...note(middle - 18, y1 + 26, ["every classifier", "is up here"]));
  else if (x1 - middle > 115) parts.push(...note(x1 - 8, y0 - 28, ["no classifier", "is down here"]));
  const quarter = lipschitz * boundQuantile(0.25, numClasses);
  if (quarter > 10 ** LOW && quarter < 10 ** HIGH)
    parts.push(svg("path", { d: `M${px(quarter)} ${py(0.25) - 8}l8 8l-8 8l-8 -8Z`, fill: COLOURS.latent, stroke: "var(--paper)", "stroke-width": 2 }));
  const at = clamp(eta, 10 ** LOW, 10 ** HIGH);
  parts.push(
    line(`M${px(at)} ${y0}V${y1}`, "var(--ink)", 1, { "stroke-dasharray": "3 4" }),
    svg("circle", { cx: px(at), cy: py(bound(at / lipschitz, numClasses)), r: 8, fill: COLOURS.inDistribution, stroke: "var(--paper)", "stroke-width": 2.5 }),
    grip("eta"),
  );
  return { parts, value: (x) => 10 ** clamp(LOW + ((x - x0) / (x1 - x0)) * (HIGH - LOW), LOW, HIGH) };
}

function summary({ num_classes: numClasses, latent_dim: latentDim, lipschitz, eta }) {
  const t = boundQuantile(0.25, numClasses);
  return `Whatever the classifier of ${whole(numClasses)} equally likely classes, at least ${percent(bound(eta / lipschitz, numClasses))} of the images ` +
    `change class within a distance of ${show(eta)}; a quarter do after a latent move of ${show(t)}, which is ` +
    `${show(t / Math.sqrt(latentDim))} of a typical ‖z‖.`;
}

export default widget(["num_classes", "latent_dim", "lipschitz", "eta"], ({ set, slider }) => {
  const plot = canvas("The bounds of Theorem 1 as curves over η; the boundary of what any classifier can reach");
  const diamond = svg("svg", { viewBox: "0 0 26 16", "aria-hidden": "true", class: "mark" },
    svg("path", { d: "M13 0l8 8l-8 8l-8 -8Z", fill: COLOURS.latent }));
  const rows = {
    bound: row(dash({ "stroke-width": 4 }), "bound (4) <small>at <i>η</i></small>"),
    balanced: row(dash({ "stroke-dasharray": "8 5" }, "var(--muted)"), "bound (5) <small>any <i>p<sub>i</sub></i> ≤ ½</small>"),
    equiprobable: row(dash({ "stroke-dasharray": "0.1 5", "stroke-linecap": "round" }, "var(--muted)"), "<i>K</i>-form <small><i>K</i> ≥ 5</small>"),
    quarter: row(diamond, "25 % have <i>r</i><sub>Z</sub> ≤"),
    relative: row(blank(), "25 % have <i>r</i><sub>Z</sub> / √<i>d</i> ≤"),
    image: row(blank(), "25 % have <i>r</i><sub>in</sub> ≤"),
  };
  const stopped = (name, label, text, colour) => slider({ name, label, stops: STOPS[name], colour, text });
  const sliders = [
    stopped("num_classes", "<i>K</i>, classes", whole),
    stopped("latent_dim", "<i>d</i>, latent dimension", whole),
    stopped("lipschitz", "<i>L</i>, Lipschitz constant of <i>g</i>", show),
    stopped("eta", "<i>η</i>, size of the move", show, COLOURS.inDistribution),
  ];
  let shown;
  drag(plot, (grip, x) => set({ eta: +shown.value(x).toPrecision(3) }));
  const draw = (now, inside) => {
    const { num_classes: numClasses, latent_dim: latentDim, lipschitz, eta } = now;
    const t = eta / lipschitz;
    const width = Math.max(280, inside);
    const height = Math.round(clamp(width * 0.56, 260, 380));
    shown = picture(now, width, height);
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.replaceChildren(...shown.parts);
    const vacuous = (value) => (value < 0 ? "says nothing" : percent(value));
    const quarter = boundQuantile(0.25, numClasses);
    rows.bound.value.textContent = percent(bound(t, numClasses));
    rows.balanced.value.textContent = vacuous(balancedBound(t));
    rows.equiprobable.value.textContent = numClasses < 5 ? "–" : vacuous(equiprobableBound(t, numClasses));
    rows.quarter.value.textContent = show(quarter);
    rows.relative.value.textContent = show(quarter / Math.sqrt(latentDim));
    rows.image.value.textContent = show(quarter * lipschitz);
  };
  const nodes = [
    plot,
    html("div", { class: "columns controls" },
      html("div", {}, ...sliders),
      legend(rows, { class: "centred" })),
  ];
  return { nodes, draw, summary };
});

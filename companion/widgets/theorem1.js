// Theorem 1 for K equally likely classes: the curves of companion/vulnerability.py, with t = ω⁻¹(η) = η / L.

// (4): 1 − K Φ(−a − t) with Φ(−a) = 1/K, summed as a difference of tails.
export function bound(t, numClasses) {
  const a = -quantile(1 / numClasses);
  return numClasses * (upperTail(a) - upperTail(a + t));
}

// (5): for any classes of probability at most 1/2.
export const balancedBound = (t) => 1 - Math.sqrt(Math.PI / 2) * Math.exp((-t * t) / 2);

// The simpler form for K ≥ 5 equally likely classes.
export function equiprobableBound(t, numClasses) {
  const rate = Math.sqrt(Math.log((numClasses * numClasses) / (4 * Math.PI * Math.log(numClasses))));
  return 1 - Math.sqrt(Math.PI / 2) * Math.exp((-t * t) / 2 - t * rate);
}

// The t at which (4) reaches q.
export const boundQuantile = (q, numClasses) => quantile(1 / numClasses) - quantile((1 - q) / numClasses);

const decades = (from, to, each) =>
  Array.from({ length: (to - from) * each + 1 }, (_, k) => +(10 ** (from + k / each)).toPrecision(3));
const STOPS = {
  num_classes: [2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 30, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5],
  latent_dim: [1, 2, 3, 5, 10, 20, 32, 50, 64, 100, 128, 200, 256, 512, 1e3, 2e3, 5e3, 1e4],
  lipschitz: decades(-1, 2, 20),
  eta: decades(-2, 2, 40),
};
const [LOW, HIGH] = [-2, 2]; // powers of ten of η on the horizontal axis

function picture({ numClasses, latentDim, lipschitz, eta }, width, height) {
  const edge = { left: 46, right: 14, top: 50, bottom: 42 };
  const px = (value) => edge.left + ((Math.log10(value) - LOW) / (HIGH - LOW)) * (width - edge.left - edge.right);
  const py = (value) => edge.top + (1 - value) * (height - edge.top - edge.bottom);
  const grid = Array.from({ length: 201 }, (_, k) => 10 ** (LOW + ((HIGH - LOW) * k) / 200));
  const [x0, x1, y0, y1] = [px(10 ** LOW), px(10 ** HIGH), py(0), py(1)];
  const curve = (f) => {
    const points = grid.map((value) => [px(value), f(value / lipschitz)]).filter(([, v]) => v >= 0);
    return points.map(([x, v], k) => `${k ? "L" : "M"}${x.toFixed(1)} ${py(v).toFixed(1)}`).join("");
  };
  const main = curve((t) => bound(t, numClasses));
  const line = (d, more) => svg("path", { d, fill: "none", stroke: "var(--ink)", "stroke-width": 1, ...more });
  const word = (x, y, content, more = {}) => svg("text", { x, y, class: "quiet", ...more }, content);
  const power = (k) => show(+(10 ** k).toPrecision(1));
  const parts = [
    svg("path", { d: `${main}L${x1} ${y1}L${x0} ${y1}Z`, fill: COLOURS.inDistribution, opacity: 0.17 }),
    line(`M${x0} ${y0}H${x1}M${x0} ${y1}H${x1}`, { stroke: "var(--muted)" }),
  ];
  for (const v of [0.25, 0.5, 0.75]) parts.push(line(`M${x0} ${py(v)}H${x1}`, { stroke: "var(--faint)" }));
  for (const v of [0, 0.25, 0.5, 0.75, 1]) parts.push(word(x0 - 7, py(v) + 4, `${100 * v}%`, { "text-anchor": "end" }));
  for (let k = LOW; k <= HIGH; k++)
    parts.push(line(`M${px(10 ** k)} ${y0}v5`, { stroke: "var(--muted)" }), word(px(10 ** k), y0 + 19, power(k), { "text-anchor": "middle" }));
  // The upper axis measures the same move relative to a typical latent norm: η / (L √d).
  const unit = lipschitz * Math.sqrt(latentDim);
  for (let k = -9; k <= 6; k++) {
    const value = unit * 10 ** k;
    if (value < 10 ** LOW * 0.999 || value > 10 ** HIGH * 1.001) continue;
    parts.push(line(`M${px(value)} ${y1}v-5`, { stroke: "var(--muted)" }), word(px(value), y1 - 10, power(k), { "text-anchor": "middle" }));
  }
  parts.push(
    word((x0 + x1) / 2, height - 5, "η, how far the image may move", { "text-anchor": "middle" }),
    word((x0 + x1) / 2, 14, "t/√d, the same move relative to ‖z‖ ≈ √d", { "text-anchor": "middle" }),
    line(curve(balancedBound), { stroke: "var(--muted)", "stroke-width": 2, "stroke-dasharray": "8 5" }),
  );
  if (numClasses >= 5)
    parts.push(line(curve((t) => equiprobableBound(t, numClasses)), { stroke: "var(--muted)", "stroke-width": 2.5, "stroke-dasharray": "0.1 5", "stroke-linecap": "round" }));
  parts.push(line(main, { "stroke-width": 3.5, "stroke-linejoin": "round" }));
  const note = (x, y, lines) => lines.map((words, k) => svg("text", { x, y: y + 17 * k, "text-anchor": "end", class: "halo" }, words));
  const middle = px(lipschitz * boundQuantile(0.6, numClasses));
  if (middle - x0 > 140) parts.push(...note(middle - 18, y1 + 26, ["every classifier", "is up here"]));
  else if (x1 - middle > 115) parts.push(...note(x1 - 8, y0 - 28, ["no classifier", "is down here"]));
  const quarter = lipschitz * boundQuantile(0.25, numClasses);
  if (quarter > 10 ** LOW && quarter < 10 ** HIGH)
    parts.push(svg("path", { d: `M${px(quarter)} ${py(0.25) - 8}l8 8l-8 8l-8 -8Z`, fill: COLOURS.latent, stroke: "var(--paper)", "stroke-width": 2 }));
  const at = clamp(eta, 10 ** LOW, 10 ** HIGH);
  const level = py(bound(at / lipschitz, numClasses));
  parts.push(
    line(`M${px(at)} ${y0}V${y1}`, { "stroke-dasharray": "3 4" }),
    svg("circle", { cx: px(at), cy: level, r: 8, fill: COLOURS.inDistribution, stroke: "var(--paper)", "stroke-width": 2.5 }),
    svg("rect", { x: x0, y: y1, width: x1 - x0, height: y0 - y1, fill: "transparent", "data-grip": "eta", style: "cursor: ew-resize; touch-action: pan-y" }),
  );
  return { parts, value: (x) => 10 ** clamp(LOW + ((x - x0) / (x1 - x0)) * (HIGH - LOW), LOW, HIGH) };
}

function render({ model, el }) {
  const state = () => ({
    numClasses: model.get("num_classes"), latentDim: model.get("latent_dim"),
    lipschitz: model.get("lipschitz"), eta: model.get("eta"),
  });
  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const plot = svg("svg", { role: "img", "aria-label": "The bounds of Theorem 1 as curves over η; the boundary of what any classifier can reach" });
  const row = (mark, label) => {
    const value = html("dd");
    const words = html("span");
    words.innerHTML = label;
    return { node: html("div", {}, html("dt", {}, mark, words), value), value };
  };
  const dash = (more, colour = "var(--ink)") => {
    const sample = svg("svg", { viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true", style: "flex: none; width: 26px; align-self: center" });
    sample.append(svg("path", { d: "M1 5H25", stroke: colour, "stroke-width": 2.5, ...more }));
    return sample;
  };
  const diamond = svg("svg", { viewBox: "0 0 26 16", "aria-hidden": "true", style: "flex: none; width: 26px; align-self: center" },
    svg("path", { d: "M13 0l8 8l-8 8l-8 -8Z", fill: COLOURS.latent }));
  const rows = {
    bound: row(dash({ "stroke-width": 4 }), "bound (4) <small>at <i>η</i></small>"),
    balanced: row(dash({ "stroke-dasharray": "8 5" }, "var(--muted)"), "bound (5) <small>any <i>p<sub>i</sub></i> ≤ ½</small>"),
    equiprobable: row(dash({ "stroke-dasharray": "0.1 5", "stroke-linecap": "round" }, "var(--muted)"), "<i>K</i>-form <small><i>K</i> ≥ 5</small>"),
    quarter: row(diamond, "25 % have <i>r</i><sub>Z</sub> ≤"),
    relative: row(html("span", { style: "flex: none; width: 26px" }), "25 % have <i>r</i><sub>Z</sub> / √<i>d</i> ≤"),
    image: row(html("span", { style: "flex: none; width: 26px" }), "25 % have <i>r</i><sub>in</sub> ≤"),
  };
  const stopped = (name, label, key, text) =>
    slider({ name, label, stops: STOPS[name], colour: name === "eta" ? COLOURS.inDistribution : undefined, read: () => state()[key], write: (v) => set(name, v), text });
  const whole = (v) => v.toLocaleString("en-GB").replaceAll(",", "\u202f");
  const sliders = [
    stopped("num_classes", "<i>K</i>, classes", "numClasses", whole),
    stopped("latent_dim", "<i>d</i>, latent dimension", "latentDim", whole),
    stopped("lipschitz", "<i>L</i>, Lipschitz constant of <i>g</i>", "lipschitz", show),
    stopped("eta", "<i>η</i>, size of the move", "eta", show),
  ];
  const status = html("p", { role: "status", "aria-live": "polite" });
  const box = card(el, plot,
    html("div", { class: "columns controls" },
      html("div", {}, ...sliders.map((s) => s.node)),
      html("dl", { class: "centred" }, ...Object.values(rows).map((r) => r.node))),
    status);

  let shown;
  drag(plot, (grip, x) => set("eta", +shown.value(x).toPrecision(3)));

  const summary = () => {
    const { numClasses, latentDim, lipschitz, eta } = state();
    const t = boundQuantile(0.25, numClasses);
    return `Whatever the classifier of ${whole(numClasses)} equally likely classes, at least ${percent(bound(eta / lipschitz, numClasses))} of the images ` +
      `change class within a distance of ${show(eta)}; a quarter do after a latent move of ${show(t)}, which is ` +
      `${show(t / Math.sqrt(latentDim))} of a typical ‖z‖.`;
  };
  const draw = () => {
    const now = state();
    const t = now.eta / now.lipschitz;
    const width = Math.max(280, Math.round(box.clientWidth - 24));
    const height = Math.round(clamp(width * 0.56, 260, 380));
    shown = picture(now, width, height);
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.replaceChildren(...shown.parts);
    const vacuous = (value) => (value < 0 ? "says nothing" : percent(value));
    const quarter = boundQuantile(0.25, now.numClasses);
    rows.bound.value.textContent = percent(bound(t, now.numClasses));
    rows.balanced.value.textContent = vacuous(balancedBound(t));
    rows.equiprobable.value.textContent = now.numClasses < 5 ? "–" : vacuous(equiprobableBound(t, now.numClasses));
    rows.quarter.value.textContent = show(quarter);
    rows.relative.value.textContent = show(quarter / Math.sqrt(now.latentDim));
    rows.image.value.textContent = show(quarter * now.lipschitz);
    for (const s of sliders) s.update();
  };
  return live({ model, names: ["num_classes", "latent_dim", "lipschitz", "eta"], box, draw, summary, status });
}

export default { render };

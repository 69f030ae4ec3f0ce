// What the widgets share on the page: colours (those of companion/figures.py), elements, controls, marks, axes, numbers.

export const COLOURS = {
  class0: "#1490EC",
  class1: "#B63A2F",
  latent: "#924997",
  inDistribution: "#2F9E86",
  unconstrained: "#BF8700",
};

const STYLE = `
  :host { display: block; }
  .widget {
    --ink: var(--pst-color-text-base, var(--jp-content-font-color1, var(--vscode-foreground, CanvasText)));
    --paper: var(--pst-color-background, var(--jp-layout-color0, var(--vscode-editor-background, Canvas)));
    --muted: color-mix(in srgb, var(--ink) 74%, var(--paper));
    --faint: color-mix(in srgb, var(--ink) 18%, var(--paper));
    --dot: color-mix(in srgb, #555 85%, var(--ink));
    --focus: var(--pst-color-primary, var(--jp-brand-color1, Highlight));
    box-sizing: border-box; max-width: 46rem; margin: 0 auto; padding: clamp(.6rem, 2.5vw, 1.1rem);
    border: 1px solid var(--faint); border-radius: .75rem; background: var(--paper); color: var(--ink); text-align: start;
    font: 400 .95rem/1.45 var(--pst-font-family-base, var(--jp-ui-font-family, system-ui, sans-serif));
    font-variant-numeric: tabular-nums;
  }
  .columns { display: grid; gap: .9rem 1.4rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
  .columns > * { min-width: 0; }
  .centred { align-self: center; }
  svg { display: block; width: 100%; height: auto; border-radius: .5rem; user-select: none; -webkit-user-select: none; }
  svg text { font: 13px/1 var(--pst-font-family-base, system-ui, sans-serif); fill: var(--ink);
    font-variant-numeric: tabular-nums; }
  svg text.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
  svg text.quiet { fill: var(--muted); }
  svg text.inside { fill: #fff; font-weight: 700; }
  svg .symbol { font-style: italic; font-family: Georgia, "DejaVu Serif", serif; font-size: 15px; }
  svg[tabindex]:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
  /* The shapes of SVG are inline if nothing else is said, and touch-action does nothing on what is inline. */
  [data-grip] { display: block; cursor: grab; touch-action: none; }
  .dragging [data-grip] { cursor: grabbing; }
  .controls { margin-top: .9rem; }
  label { font-weight: 600; }
  input[type=range] { -webkit-appearance: none; appearance: none; display: block; width: 100%; height: 28px; margin: 0;
    background: transparent; cursor: pointer; --role: var(--focus); }
  input[type=range]::-webkit-slider-runnable-track { height: 6px; border-radius: 3px; background: var(--faint); }
  input[type=range]::-moz-range-track { height: 6px; border-radius: 3px; background: var(--faint); }
  input[type=range]::-webkit-slider-thumb { -webkit-appearance: none; width: 24px; height: 24px; margin-top: -9px;
    border-radius: 50%; border: 3px solid var(--paper); background: var(--role); box-shadow: 0 0 0 1px var(--muted); }
  input[type=range]::-moz-range-thumb { box-sizing: border-box; width: 24px; height: 24px; border-radius: 50%;
    border: 3px solid var(--paper); background: var(--role); box-shadow: 0 0 0 1px var(--muted); }
  input[type=range]:focus-visible { outline: 3px solid var(--focus); outline-offset: 1px; border-radius: 8px; }
  dl { display: grid; grid-template-columns: auto 1fr auto; gap: .45rem .6rem; margin: 0; align-items: baseline; }
  dl > div { display: contents; }
  dt { grid-column: 1 / 3; display: flex; gap: .6rem; align-items: baseline; }
  dd { margin: 0; text-align: right; font-weight: 650; font-size: 1.1em; }
  .swatch { flex: none; width: 1.5rem; height: 0; border-top: 4px solid; align-self: center; border-radius: 2px; }
  small { color: var(--muted); font-size: .86em; }
  p { margin: .7rem 0 0; }
  fieldset { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 0; padding: 0; border: 0; }
  legend { padding: 0; font-weight: 600; }
  fieldset label { display: flex; gap: .45rem; align-items: center; min-height: 28px; font-weight: 400; cursor: pointer; }
  input[type=radio] { -webkit-appearance: none; appearance: none; width: 18px; height: 18px; margin: 0; cursor: pointer;
    border: 2px solid var(--muted); border-radius: 50%; }
  input[type=radio]:checked { border: 6px solid var(--focus); }
  input[type=radio]:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
  .mark { flex: none; width: 26px; align-self: center; }
  .bar { display: flex; height: 12px; border-radius: 6px; overflow: hidden; gap: 2px; margin: .25rem 0; }
  .split { display: flex; justify-content: space-between; gap: .5rem; }
  sub { font-size: .72em; line-height: 0; }
`;

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const html = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

// --- The widget itself ---

// What every module exports. `names` are the model's values; `compose` gets what reads and writes them, and returns
// the card's `nodes`, `draw(values, width)`, and `summary(values)`, the sentence of the live region.
export function widget(names, compose) {
  function render({ model, el }) {
    const state = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
    const set = (values) => {
      for (const [name, value] of Object.entries(values)) model.set(name, value);
      model.save_changes();
    };
    const controls = [];
    const kept = (control) => { controls.push(control); return control.node; };
    const ofModel = (make) => ({ name, ...more }) =>
      kept(make({ name, read: () => model.get(name), write: (value) => set({ [name]: value }), ...more }));
    const { nodes, draw, summary } = compose({ state, set, slider: ofModel(slider), choice: ofModel(choice) });
    const status = html("p", { role: "status", "aria-live": "polite" });
    const box = card(el, ...nodes, status);
    const redraw = () => {
      draw(state(), Math.max(240, Math.round(box.clientWidth - 24)));
      for (const control of controls) control.update();
    };
    return live({ model, names, box, draw: redraw, summary: () => summary(state()), status });
  }
  return { render };
}

// A small card of our own, apart from the page's styles.
function card(el, ...children) {
  const host = html("div", { "data-lm-suppress-shortcuts": "true" });
  el.append(host);
  const box = html("div", { class: "widget" }, ...children);
  host.attachShadow({ mode: "open" }).append(html("style", {}, STYLE), box);
  return box;
}

// Redraws on every change of the model and of the card's width; says the summary once the reader pauses.
function live({ model, names, box, draw, summary, status }) {
  let frame = 0;
  let pause = 0;
  const say = () => { if (status.textContent !== summary()) status.textContent = summary(); };
  const now = () => { frame = 0; draw(); };
  const later = () => {
    frame ||= requestAnimationFrame(now);
    clearTimeout(pause);
    pause = setTimeout(say, 250);
  };
  for (const name of names) model.on(`change:${name}`, later);
  const observer = new ResizeObserver(later);
  observer.observe(box);
  draw();
  say();
  return () => {
    observer.disconnect();
    clearTimeout(pause);
    for (const name of names) model.off(`change:${name}`, later);
  };
}

// --- Controls ---

// A labelled range. `stops`, if given, are the values it may take; otherwise min, max and step are.
function slider({ name, label, colour, min = 0, max, step = 1, stops, read, write, text }) {
  const output = html("span");
  const input = html("input", {
    id: name, type: "range", min, max: stops ? stops.length - 1 : max, step,
    "data-lm-suppress-shortcuts": "true", ...(colour && { style: `--role: ${colour}` }),
  });
  input.addEventListener("input", () => write(stops ? stops[+input.value] : +input.value));
  const title = html("label", { for: name });
  title.innerHTML = label;
  const node = html("div", {}, html("div", { class: "split" }, title, output), input);
  const update = () => {
    const value = read();
    input.value = stops ? nearestStop(stops, value) : value;
    output.textContent = text(value);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  return { node, update };
}

const nearestStop = (stops, value) =>
  stops.reduce((best, stop, k) => (Math.abs(Math.log(stop / value)) < Math.abs(Math.log(stops[best] / value)) ? k : best), 0);

// A few named choices, one of which holds: `options` maps values to labels.
function choice({ name, label, options, read, write }) {
  const inputs = Object.keys(options).map((value) => html("input", { type: "radio", name, value, "data-lm-suppress-shortcuts": "true" }));
  for (const input of inputs) input.addEventListener("change", () => write(input.value));
  const labels = inputs.map((input) => html("label", {}, input, options[input.value]));
  const update = () => { for (const input of inputs) input.checked = input.value === read(); };
  return { node: html("fieldset", {}, html("legend", {}, label), ...labels), update };
}

// Pointer dragging of everything marked data-grip inside `picture`: `move(grip, x, y)` in the picture's own units.
export function drag(picture, move) {
  let grip = null;
  const point = (event) => {
    const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
    move(grip, p.x, p.y);
  };
  picture.addEventListener("pointerdown", (event) => {
    grip = event.target.closest("[data-grip]")?.dataset.grip ?? null;
    if (!grip) return;
    event.preventDefault();
    picture.setPointerCapture(event.pointerId);
    picture.classList.add("dragging");
    point(event);
  });
  picture.addEventListener("pointermove", (event) => grip && point(event));
  for (const end of ["pointerup", "pointercancel"])
    picture.addEventListener(end, () => {
      grip = null;
      picture.classList.remove("dragging");
    });
}

// --- Rows: a mark, its name, its value ---

export function row(mark, label) {
  const words = html("span");
  words.innerHTML = label;
  const value = html("dd");
  return { node: html("div", {}, html("dt", {}, mark, words), value), value };
}

// The rows of a widget, which it keeps by name.
export const legend = (rows, attributes = {}) => html("dl", attributes, ...Object.values(rows).map((r) => r.node));
export const swatch = (colour) => html("span", { class: "swatch", style: `color: ${colour}` });
export const dash = (more = {}, colour = "var(--ink)") =>
  svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true", class: "mark" }, svg("path", { d: "M1 5H25", stroke: colour, "stroke-width": 2.5, ...more }));
export const blank = () => html("span", { class: "mark" });

// --- Marks of a picture, at [x, y] in pixels ---

export const canvas = (label, size) => svg("svg", { role: "img", "aria-label": label, ...(size && { viewBox: `0 0 ${size} ${size}` }) });
export const line = (d, colour = "var(--ink)", width = 1, more = {}) => svg("path", { d, fill: "none", stroke: colour, "stroke-width": width, ...more });
export const area = (d, colour, opacity = 1) => svg("path", { d, fill: colour, opacity });
export const words = ([x, y], content, more = {}) => svg("text", { x, y, "text-anchor": "middle", class: "quiet", ...more }, content);
export const path = (points) => points.map((p, k) => `${k ? "L" : "M"}${p[0]} ${p[1]}`).join("");

// A symbol with an index, such as r_in.
export const named = ([x, y], symbol, index = "") =>
  svg("text", { x, y: y + 4, "text-anchor": "middle", class: "halo" },
    svg("tspan", { class: "symbol" }, symbol), svg("tspan", { dy: 4, "font-size": 11 }, index));

// A point with its name inside.
export const dot = ([x, y], colour, name) => [
  svg("circle", { cx: x, cy: y, r: 11, fill: colour, stroke: "var(--paper)", "stroke-width": 2.5 }),
  svg("text", { x, y: y + 4, "text-anchor": "middle", class: "inside symbol" }, name),
];
export const spot = ([x, y], r = 5, colour = "var(--paper)", edge = "var(--ink)") =>
  svg("circle", { cx: x, cy: y, r, fill: colour, stroke: edge, "stroke-width": 2 });

// What the finger takes hold of, and a ring that shows it.
export const target = ([x, y], grip, title, r = 20) =>
  svg("circle", { cx: x, cy: y, r, fill: "transparent", "data-grip": grip }, svg("title", {}, title));
export const handle = (at, grip, title) => [spot(at, 8), target(at, grip, title, 18)];

// The pixels of a plot, and its axes. For each direction: low, high, ticks, and their `text`; `map` is Math.log10 for a
// logarithmic one.
export function frame({ width, height, x, y, edge = {} }) {
  const { left = 46, right = 14, top = 12, bottom = 42 } = edge;
  const scale = ({ low, high, map = (v) => v }, from, to) => (v) => from + ((map(v) - map(low)) / (map(high) - map(low))) * (to - from);
  const px = scale(x, left, width - right);
  const py = scale(y, height - bottom, top);
  const [x0, x1, y0, y1] = [left, width - right, height - bottom, top];
  const parts = [line(`M${x0} ${y0}H${x1}`, "var(--muted)")];
  for (const v of y.ticks) {
    if (v > y.low) parts.push(line(`M${x0} ${py(v)}H${x1}`, v < y.high ? "var(--faint)" : "var(--muted)"));
    parts.push(words([x0 - 7, py(v) + 4], y.text(v), { "text-anchor": "end" }));
  }
  for (const v of x.ticks) parts.push(line(`M${px(v)} ${y0}v5`, "var(--muted)"), words([px(v), y0 + 19], x.text(v)));
  parts.push(words([(x0 + x1) / 2, height - 5], x.label));
  const curve = (points) => path(points.map(([a, b]) => [px(a).toFixed(1), py(b).toFixed(1)]));
  const value = (pixel) => x.low + ((clamp(pixel, x0, x1) - x0) / (x1 - x0)) * (x.high - x.low);
  // The whole plot takes the pointer: a tap sets the value below it.
  const grip = (name) => svg("rect", { x: x0, y: y1, width: x1 - x0, height: y0 - y1, fill: "transparent", "data-grip": name, style: "cursor: ew-resize; touch-action: pan-y" });
  return { px, py, x0, x1, y0, y1, parts, curve, value, grip };
}

// --- Numbers ---

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
export const round = (value, step) => +(Math.round(value / step) * step).toFixed(6);

// Three significant figures, as a person writes them: 0.0158, 12.5, 1.2·10⁻⁷, ∞.
export function show(value) {
  if (value === Infinity) return "∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return String(+value.toPrecision(3)).replace("-", "−");
  const [digits, power] = value.toExponential(2).split("e");
  const raised = [...String(+power)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
  return `${+digits}·10${raised}`.replace("-", "−");
}

export const percent = (value) => (value > 0 && value < 1e-3 ? `${show(100 * value)} %` : `${(100 * value).toFixed(1)} %`.replace("-", "−"));
export const fixed = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "∞");

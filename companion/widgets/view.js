// What the widgets share on the page: colours (those of companion/figures.py), elements, sliders, numbers.

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
    --focus: var(--pst-color-primary, var(--jp-brand-color1, Highlight));
    box-sizing: border-box; max-width: 46rem; margin: 0 auto; padding: clamp(.6rem, 2.5vw, 1.1rem);
    border: 1px solid var(--faint); border-radius: .75rem; background: var(--paper); color: var(--ink);
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
  [data-grip] { cursor: grab; touch-action: none; }
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

// A small card of our own, apart from the page's styles.
export function card(el, ...children) {
  const host = html("div", { "data-lm-suppress-shortcuts": "true" });
  el.append(host);
  const box = html("div", { class: "widget" }, ...children);
  host.attachShadow({ mode: "open" }).append(html("style", {}, STYLE), box);
  return box;
}

// A labelled range. `stops`, if given, are the values it may take; otherwise min, max and step are.
export function slider({ name, label, colour, min = 0, max, step = 1, stops, read, write, text }) {
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
    input.value = stops ? nearest(stops, value) : value;
    output.textContent = text(value);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  return { node, update };
}

const nearest = (stops, value) =>
  stops.reduce((best, stop, k) => (Math.abs(Math.log(stop / value)) < Math.abs(Math.log(stops[best] / value)) ? k : best), 0);

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

// Redraws on every change of the model and of the card's width; says the summary once the reader pauses.
export function live({ model, names, box, draw, summary, status }) {
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

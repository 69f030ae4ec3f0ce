// Which (q, K, d) explain the printed 0.016? Two planes, q by K and q by d, with what rounds to it.
import { COLOURS, area, blank, canvas, clamp, dash, drag, frame, handle, html, legend, line, percent, round, row, show, svg, swatch, widget, words } from "./view.js";
import { HIGH, LOW, PRINTED, audit, classCounts, digits, dimensions, meanNorm, quantiles } from "./audit_math.js";

const MOST = { num_classes: 1000, latent_dim: 10_000 };
const LEAST = { num_classes: 2, latent_dim: 1 };
const NAME = { num_classes: "K", latent_dim: "d" };
// Integers, 24 to each power of ten.
const stops = (name) => [...new Set(Array.from({ length: 97 }, (_, k) => Math.round(10 ** (k / 24))))].filter((n) => n >= LEAST[name] && n <= MOST[name]);
const STOPS = { num_classes: stops("num_classes"), latent_dim: stops("latent_dim") };
const BAND = COLOURS.inDistribution;
const WIDTH = 340;
const HEIGHT = 290;
const SCALE = [0, 0.04]; // the ends of the scale of t_q relative to the norm
const hundredths = (v) => `${Math.round(100 * v)} %`;
const four = (value) => String(+value.toPrecision(4));

// q across, K or d (`name`) upwards: what rounds to the printed number, and where we are.
function planeOf(name, now) {
  const [low, high] = [LEAST[name], MOST[name]];
  const { px, py, x0, x1, y0, y1, parts, curve, value } = frame({
    width: WIDTH, height: HEIGHT, edge: { top: 30, right: 24 },
    x: { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => `${100 * v}%`, label: "q, quantile" },
    y: { low, high, map: Math.log10, ticks: [low, 10, 100, 1000, 10_000].filter((v) => v <= high), text: (v) => (v < 10_000 ? String(v) : "10⁴") },
  });
  const ends = STOPS[name].map((n) => (name === "num_classes" ? quantiles(n, meanNorm(now.latent_dim)) : quantiles(now.num_classes, meanNorm(n))));
  const edge = (side) => STOPS[name].map((n, k) => [ends[k][side], n]);
  const band = `${curve([...edge(0), ...edge(1).reverse()])}Z`;
  const other = name === "num_classes" ? `d = ${now.latent_dim}` : `K = ${now.num_classes}`;
  const at = [px(now.q), py(now[name])];
  parts.push(
    area(band, BAND), line(band, BAND, 1.5),
    line(`M${x0} ${at[1]}H${x1}M${at[0]} ${y0}V${y1}`, "var(--ink)", 1, { "stroke-dasharray": "2 5" }),
    words([x0, y1 - 12], `${NAME[name]} upwards, for ${other}`, { "text-anchor": "start" }),
    ...handle(at, name, `drag: q and ${NAME[name]}`),
  );
  // The K or d at a height in pixels.
  const count = (y) => Math.round(10 ** (Math.log10(low) + ((y0 - clamp(y, y1, y0)) / (y0 - y1)) * Math.log10(high / low)));
  return { parts, value, count };
}

// The printed number with what rounds to it, and the two relative numbers; one beyond the scale stands at its end.
function scale({ mean, root }, width) {
  const { px, y0, parts } = frame({
    width, height: 96, edge: { left: 18, right: 18, top: 24, bottom: 44 },
    x: { low: SCALE[0], high: SCALE[1], ticks: [0, 0.01, 0.02, 0.03, 0.04], text: show, label: "t relative to the norm" },
    y: { low: 0, high: 1, ticks: [], text: show },
  });
  const place = (value) => px(clamp(value, ...SCALE));
  const beyond = mean > SCALE[1] ? [words([px(SCALE[1]) - 10, y0 - 12], `${digits(mean)} →`, { "text-anchor": "end", class: "halo" })] : [];
  parts.push(
    svg("rect", { x: px(LOW), y: y0 - 26, width: px(HIGH) - px(LOW), height: 26, fill: BAND, opacity: 0.75 }),
    words([px(0.016), y0 - 32], `printed ${PRINTED}`, { class: "halo" }),
    line(`M${place(root)} ${y0}v-26`, "var(--ink)", 2, { "stroke-dasharray": "4 4" }),
    line(`M${place(mean)} ${y0}v-20`, "var(--ink)", 4),
    ...beyond,
  );
  return parts;
}

const range = ([first, last]) => (first > last ? "none" : first === last ? `${first}` : `${first} to ${last}`);
const counted = (name, found) => (found[0] > found[1] ? `no ${name}` : `${name} = ${range(found)}`);

function summary(now) {
  const { t, mean, root } = audit(now);
  const [low, high] = quantiles(now.num_classes, meanNorm(now.latent_dim));
  const verdict = digits(mean) === PRINTED ? "which is what the tables print" : `and not to the printed ${PRINTED}`;
  return `The ${hundredths(now.q)} quantile of ${now.num_classes} equally likely classes is at most ${show(t)}. Divided by the mean norm in ${now.latent_dim} dimensions ` +
    `it is ${four(mean)}, divided by √d ${four(root)}. The first rounds to ${digits(mean)}, ${verdict}. With these K and d, the quantiles from ` +
    `${percent(low)} to ${percent(high)} round to ${PRINTED}. So do, with these q and d, ${counted("K", classCounts(now, MOST.num_classes))}, and, ` +
    `with these q and K, ${counted("d", dimensions(now, MOST.latent_dim))}.`;
}

export default widget(["q", "num_classes", "latent_dim"], ({ set, slider }) => {
  const pictures = {
    num_classes: canvas("Quantile by number of classes; the band rounds to the printed number"),
    latent_dim: canvas("Quantile by latent dimension; the band rounds to the printed number"),
  };
  const ruler = canvas("A scale from 0 to 0.04 with the printed number and the bound in both norms");
  const rows = {
    t: row(blank(), "<i>t<sub>q</sub></i> <small>bound on the quantile</small>"),
    mean: row(dash({ "stroke-width": 4 }), "<i>t<sub>q</sub></i> / E‖<i>z</i>‖"),
    root: row(dash({ "stroke-dasharray": "4 4" }), "<i>t<sub>q</sub></i> / √<i>d</i>"),
    rounded: row(blank(), "in two digits <small>of each</small>"),
    q: row(swatch(BAND), `<span><i>q</i> that round to ${PRINTED}</span>`),
    classes: row(swatch(BAND), "<span><i>K</i> that do</span>"),
    dims: row(swatch(BAND), "<span><i>d</i> that do</span>"),
  };
  const sliders = [
    slider({ name: "q", label: "<i>q</i>, quantile", min: 0.01, max: 0.99, step: 0.01, text: hundredths }),
    slider({ name: "num_classes", label: "<i>K</i>, classes", stops: STOPS.num_classes, text: String }),
    slider({ name: "latent_dim", label: "<i>d</i>, latent dimension", stops: STOPS.latent_dim, text: String }),
  ];
  const shown = {};
  for (const [name, picture] of Object.entries(pictures)) {
    picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    drag(picture, (_, x, y) => set({ q: clamp(round(shown[name].value(x), 0.01), 0.01, 0.99), [name]: shown[name].count(y) }));
  }
  const draw = (now, width) => {
    for (const [name, picture] of Object.entries(pictures)) {
      shown[name] = planeOf(name, now);
      picture.replaceChildren(...shown[name].parts);
    }
    const found = audit(now);
    ruler.setAttribute("viewBox", `0 0 ${width} 96`);
    ruler.replaceChildren(...scale(found, width));
    const [low, high] = quantiles(now.num_classes, meanNorm(now.latent_dim));
    rows.t.value.textContent = show(found.t);
    rows.mean.value.textContent = four(found.mean);
    rows.root.value.textContent = four(found.root);
    rows.rounded.value.textContent = `${digits(found.mean)}, ${digits(found.root)}`;
    rows.q.value.textContent = `${(100 * low).toFixed(1)} – ${percent(high)}`;
    rows.classes.value.textContent = range(classCounts(now, MOST.num_classes));
    rows.dims.value.textContent = range(dimensions(now, MOST.latent_dim));
  };
  const nodes = [
    html("div", { class: "columns" }, ...Object.values(pictures)),
    ruler,
    html("div", { class: "columns controls" },
      html("div", {}, ...sliders),
      legend(rows, { class: "centred" })),
  ];
  return { nodes, draw, summary };
});

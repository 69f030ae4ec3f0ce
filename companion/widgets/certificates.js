// Six generators of digits: how sharp they are, what is proved of them, and what attacks find.
import { COLOURS, area, canvas, dash, fixed, frame, html, legend, line, path, percent, row, show, svg, swatch, widget, words } from "./view.js";
import { intervalOf, promised, quantileOf, shareWithin, sorted } from "./certificates_math.js";
import { bytes } from "./bytes.js";
import { paint, pixels } from "./pixels.js";
import { DATA } from "./certificates_data.js";

const READERS = { cnn: "convolutional", mlp: "two hidden layers", linear: "linear" };
const [LOW, HIGH] = [0.01, 1000];
const FARTHEST = 8; // two images of 8 × 8 pixels from 0 to 1
const SHOWN = DATA.readers.cnn.labels[0].length;
const IMAGES = bytes(DATA.images);
const HEIGHT = 196;
const LANES = { proved: 40, attack: 90, nearest: 140 };

function numbers({ generator, reader, q }) {
  const { safe, radii, nearest, labels } = DATA.readers[reader];
  const found = sorted(radii[generator]);
  const proved = DATA.constants[generator] * promised(safe[generator], q);
  return {
    proved,
    attack: quantileOf(found, q),
    interval: intervalOf(found, q),
    nearest: quantileOf(sorted(nearest[generator]), q),
    within: shareWithin(found, proved),
    labels: labels[generator],
    radii: radii[generator].slice(0, SHOWN),
    rows: found.length,
  };
}

function axisPicture({ q }, { proved, attack, interval, nearest }, width) {
  const { px, x0, x1, y0, parts } = frame({
    width, height: HEIGHT, edge: { left: 20, right: 20 },
    x: { low: LOW, high: HIGH, map: Math.log10, ticks: [0.01, 0.1, 1, 10, 100, 1000], text: show, label: "η, distance between images" },
    y: { low: 0, high: 1, ticks: [] },
  });
  const at = (value) => px(Math.min(Math.max(value, LOW), HIGH));
  const lane = (y, text) => words([x0 + 2, y - 18], text, { "text-anchor": "start" });
  const beyond = at(FARTHEST);
  const label = width > 520 ? "no two images are so far apart" : "none so far apart";
  parts.push(
    svg("rect", { x: beyond, y: 4, width: x1 - beyond, height: y0 - 4, fill: "var(--ink)", opacity: 0.07 }),
    line(`M${beyond} 4V${y0}`, "var(--muted)", 1, { "stroke-dasharray": "3 4" }),
    words([x1 - 4, y0 - 8], label, { "text-anchor": "end" }),
    lane(LANES.proved, `proved, for ${Math.round(100 * q)} %`),
    svg("rect", { x: x0, y: LANES.proved - 7, width: at(proved) - x0, height: 14, fill: "var(--ink)", opacity: 0.22 }),
    line(`M${at(proved)} ${LANES.proved - 11}V${LANES.proved + 11}`, "var(--ink)", 4),
    lane(LANES.attack, "found by attack"),
    line(`M${at(interval[0])} ${LANES.attack}H${at(interval[1])}`, COLOURS.inDistribution, 4),
    svg("circle", { cx: at(attack), cy: LANES.attack, r: 7, fill: COLOURS.inDistribution, stroke: "var(--paper)", "stroke-width": 2 }),
    lane(LANES.nearest, "nearest of 20,000 images"),
    area(triangle([at(nearest), LANES.nearest]), COLOURS.unconstrained),
  );
  return parts;
}

const triangle = ([x, y]) => `${path([[x - 8, y + 6], [x + 8, y + 6], [x, y - 8]])}Z`;
const constant = (generator) => `${DATA.names[generator]}; proved: ${fixed(DATA.constants[generator], generator < 5 ? 4 : 0)}`;
const times = (value) => `${show(+value.toPrecision(2))} ×`;

function summary(now) {
  const { proved, attack, interval, nearest, within, labels, rows } = numbers(now);
  return `Generator ${constant(now.generator).replace("; proved:", ", with the proved constant")}. Read by the ${READERS[now.reader]} classifier, its first ${SHOWN} digits are ${labels.join(", ")}. ` +
    `It is proved that ${Math.round(100 * now.q)} % of the images change label within ${show(proved)}; ` +
    `attacks find that they do within ${show(attack)} (95 % interval ${show(interval[0])} to ${show(interval[1])}, ${rows} images), the nearest of 20,000 images is ${show(nearest)} away. ` +
    `Within the proved distance attacks find ${percent(within)}.`;
}

export default widget(["generator", "reader", "q"], ({ slider, choice }) => {
  const digits = Array.from({ length: SHOWN }, (_, k) => {
    const picture = pixels(8, `digit ${k + 1}`);
    const box = html("div", { style: "padding: 2px; border: 2px solid; border-radius: .4rem" }, picture);
    const words = html("div", { class: "split", style: "padding: 0 4px; align-items: baseline" }, html("b"), html("small"));
    return { picture, box, words, node: html("div", {}, box, words) };
  });
  const axis = canvas("One axis of distances: what is proved, what attacks find, and the nearest of 20,000 images");
  const proved = row(swatch("var(--ink)"), "proved <small>given the counted labels</small>");
  const attack = row(swatch(COLOURS.inDistribution), "found by attack");
  const nearest = row(swatch(COLOURS.unconstrained), "nearest of 20,000");
  const ratio = row(swatch("transparent"), "proved / found");
  const within = row(swatch("transparent"), "share within the proved distance");
  const draw = (now, width) => {
    const found = numbers(now);
    digits.forEach(({ picture, box, words }, k) => {
      const start = 64 * (SHOWN * now.generator + k);
      paint(picture, IMAGES.subarray(start, start + 64));
      picture.setAttribute("aria-label", `digit ${k + 1}, read as ${found.labels[k]}`);
      box.style.borderColor = found.radii[k] <= found.proved ? COLOURS.inDistribution : "var(--faint)";
      words.children[0].textContent = found.labels[k];
      words.children[1].textContent = fixed(found.radii[k], 2);
    });
    axis.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    axis.replaceChildren(...axisPicture(now, found, width));
    proved.value.textContent = show(found.proved);
    attack.value.textContent = show(found.attack);
    nearest.value.textContent = show(found.nearest);
    ratio.value.textContent = times(found.proved / found.attack);
    within.value.textContent = percent(found.within);
  };
  const nodes = [
    html("div", { class: "columns" },
      html("div", { style: "display: grid; grid-template-columns: repeat(4, 1fr); gap: .3rem" }, ...digits.map(({ node }) => node)),
      html("div", { class: "centred" },
        slider({ name: "generator", label: "generator", max: DATA.names.length - 1, text: constant }),
        slider({ name: "q", label: "share of the images", min: 0.05, max: 0.9, step: 0.01, colour: COLOURS.inDistribution, text: (v) => `${Math.round(100 * v)} %` }),
        choice({ name: "reader", label: "classifier", options: READERS }))),
    html("div", { class: "controls" }, axis),
    html("div", { class: "columns controls" }, legend({ proved, attack, nearest }), legend({ ratio, within })),
    html("p", {}, html("small", {}, "Below each digit its label, and its radius as attacks find it; framed where that is below the proved distance. The digits and radii were calculated beforehand.")),
  ];
  return { nodes, draw, summary };
});

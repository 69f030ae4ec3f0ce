// From a generated photograph straight to the nearest latent with another label: photograph, label, the three radii.
import { COLOURS, canvas, clamp, drag, fixed, frame, html, legend, line, named, percent, round, row, show, spot, svg, swatch, target, widget, words } from "./view.js";
import { blend, reach, roundNumbers } from "./walk_math.js";
import { bytes } from "./bytes.js";
import { paint, pixels } from "./pixels.js";
import { DATA } from "./walk_data.js";

const NETWORKS = { "wide-resnet": "Wide ResNet", "wide-resnet-adversarial": "the same, adversarially trained" };
const SIZE = 3 * 32 * 32;
const GAIN = 8; // by how much the change is made visible
const HEIGHT = 250;

const cut = (levels) => Array.from({ length: levels.length / SIZE }, (_, k) => levels.subarray(SIZE * k, SIZE * (k + 1)));
const FIRST = cut(bytes(DATA.first));
const FRAMES = Object.fromEntries(Object.entries(DATA.walks).map(([name, walks]) => [name, walks.map((walk, k) => [FIRST[k], ...cut(bytes(walk.frames))])]));

function numbers({ photo, network, t }) {
  const walk = DATA.walks[network][photo - 1];
  const place = Math.round(t / DATA.fine);
  const [latent, inDistribution, unconstrained] = walk.radii;
  const where = (radius) => reach(walk.moved, radius) * DATA.fine;
  return {
    levels: blend(FRAMES[network][photo - 1], (place * DATA.fine) / DATA.key),
    first: FIRST[photo - 1],
    chances: walk.chances[place].map((value) => value / 1e4),
    label: +walk.labels[place],
    start: +walk.labels[0],
    moved: walk.moved[place],
    track: walk.moved,
    latent, inDistribution, unconstrained,
    places: { inDistribution: where(inDistribution), unconstrained: where(unconstrained) },
  };
}

function trackPicture({ t }, { track, moved, inDistribution, unconstrained, latent, places }, width) {
  const high = track[track.length - 1] * 1.06;
  const { px, py, x0, y0, y1, parts, curve, value, grip } = frame({
    width, height: HEIGHT, edge: { top: 46, right: 16, bottom: 44 },
    x: { low: 0, high: DATA.far, ticks: [0, 0.5, 1, 1.5], text: show, label: "t, how far the latent has gone" },
    y: { low: 0, high, ticks: roundNumbers(high), text: show },
  });
  // Names stand side by side where two of the marks are close.
  const near = px(places.inDistribution) - px(places.unconstrained) < 34 ? 14 : 0;
  const mark = (place, colour, index, aside = 0) => [line(`M${px(place)} ${y0}V${y1}`, colour, 3), named([px(place) + aside, y1 - 12], "r", index)];
  const level = (radius, place, colour) => line(`M${x0} ${py(radius)}H${px(place)}`, colour, 2, { "stroke-dasharray": "6 4" });
  parts.push(
    words([x0, 12], "how far the image has moved", { "text-anchor": "start" }),
    level(unconstrained, places.unconstrained, COLOURS.unconstrained),
    level(inDistribution, places.inDistribution, COLOURS.inDistribution),
    ...mark(places.unconstrained, COLOURS.unconstrained, "unc", -near),
    ...mark(places.inDistribution, COLOURS.inDistribution, "in", near),
    ...mark(1, COLOURS.latent, "Z"),
    line(curve(track.map((v, k) => [k * DATA.fine, v])), "var(--ink)", 2.5),
    line(`M${px(t)} ${y0}V${py(moved)}`, "var(--ink)", 1, { "stroke-dasharray": "3 4" }),
    grip("t"), spot([px(t), py(moved)], 7), target([px(t), py(moved)], "t", "drag: walk"),
  );
  return { parts, value };
}

function summary(now) {
  const { chances, label, start, moved, latent, inDistribution, unconstrained, places } = numbers(now);
  const name = (k) => DATA.classes[k];
  const changed = label === start ? `${now.t > 0 ? "still " : ""}calls it ${name(label)}` : `called it ${name(start)} and now calls it ${name(label)}`;
  return `Photograph ${now.photo} at t = ${fixed(now.t, 2)}: the latent has moved by ${show(now.t * latent)}, the image by ${show(moved)}; ` +
    `the ${now.network === "wide-resnet" ? NETWORKS[now.network] : "adversarially trained network"} ${changed} (${percent(chances[label])}). ` +
    `Another label is ${show(unconstrained)} away among all images and ${show(inDistribution)} among those of the generator; this walk has moved the image as far at ` +
    `t = ${fixed(places.unconstrained, 2)} and ${fixed(places.inDistribution, 2)}. At t = 1, a latent step of ${show(latent)}, the label changes.`;
}

export default widget(["photo", "network", "t"], ({ set, slider, choice }) => {
  const names = { now: "the photograph now", first: "the photograph at the start", change: `what has changed, ${GAIN} times as strong` };
  const shown = Object.fromEntries(Object.entries(names).map(([key, name]) => [key, pixels(32, name, "auto")]));
  const under = (key, text) => html("div", {}, shown[key], html("small", {}, text));
  const label = html("div", { style: "font-size: 1.25em; font-weight: 650" });
  const bars = DATA.classes.map((name) => {
    const bar = html("span", { style: "height: 9px; border-radius: 4px; align-self: center; background: var(--muted)" });
    return { bar, value: html("small", { style: "text-align: right" }), name: html("span", {}, name) };
  });
  const plot = canvas("How far the image has moved, over the way of the latent, with the three radii where they occur");
  const rows = {
    unconstrained: row(swatch(COLOURS.unconstrained), "<i>r</i><sub>unc</sub> <small>any image</small>"),
    inDistribution: row(swatch(COLOURS.inDistribution), "<i>r</i><sub>in</sub> <small>images of the generator</small>"),
    moved: row(swatch("transparent"), "moved <small>the image now</small>"),
    latent: row(swatch(COLOURS.latent), "<i>r</i><sub>Z</sub> <small>latent step</small>"),
  };
  const { unconstrained, inDistribution, latent, moved } = rows;
  let track;
  drag(plot, (_, x) => set({ t: clamp(round(track.value(x), DATA.fine), 0, DATA.far) }));
  const draw = (now, width) => {
    const found = numbers(now);
    paint(shown.now, found.levels);
    paint(shown.first, found.first);
    paint(shown.change, found.levels.map((v, k) => clamp(128 + GAIN * (v - found.first[k]), 0, 255)));
    label.textContent = `“${DATA.classes[found.label]}”`;
    label.style.color = found.label === found.start ? "inherit" : COLOURS.latent;
    bars.forEach(({ bar, value, name }, k) => {
      bar.style.width = `${100 * found.chances[k]}%`;
      bar.style.background = k === found.label ? "var(--ink)" : "var(--muted)";
      name.style.fontWeight = k === found.label ? 650 : 400;
      value.textContent = percent(found.chances[k]);
    });
    track = trackPicture(now, found, width);
    plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    plot.replaceChildren(...track.parts);
    for (const [name, { value }] of Object.entries(rows)) value.textContent = show(found[name]);
  };
  const grid = (columns, ...children) => html("div", { style: `display: grid; grid-template-columns: ${columns}; gap: .1rem .5rem` }, ...children);
  const nodes = [
    html("div", { class: "columns" },
      html("div", {},
        grid("minmax(0, 2fr) minmax(0, 1fr)", under("now", "now"), html("div", {}, under("first", "at the start"), under("change", `change × ${GAIN}`))),
        html("div", { class: "controls" },
          slider({ name: "t", label: "<i>t</i>, how far to walk", max: DATA.far, step: DATA.fine, colour: COLOURS.latent, text: (v) => fixed(v, 2) }),
          slider({ name: "photo", label: "photograph", min: 1, max: FIRST.length, text: (v) => `${v} of ${FIRST.length}` }))),
      html("div", {},
        html("small", {}, "The network says"), label,
        grid("auto 1fr 3.6em", ...bars.flatMap(({ name, bar, value }) => [name, bar, value])),
        html("div", { class: "controls" }, choice({ name: "network", label: "network", options: NETWORKS })))),
    html("div", { class: "controls" }, plot),
    html("div", { class: "columns controls" }, legend({ unconstrained, inDistribution }), legend({ latent, moved })),
    html("p", {}, html("small", {}, `The photographs and probabilities were calculated beforehand, the photographs at every ${DATA.key} of t. Between two of them the page blends, which is never wrong by more than ${Math.ceil(DATA.error)} of 255 levels.`)),
  ];
  return { nodes, draw, summary };
});

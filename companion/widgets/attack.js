// A digit, a change of it and the sum, with what a small network says, live; the same for every size of three attacks.
import { COLOURS, canvas, clamp, dash, drag, fixed, frame, html, legend, line, percent, round, row, show, spot, svg, widget, words } from "./view.js";
import { GRID, attackOn, course, labelOf, lengthOf, probabilities, stored } from "./attack_math.js";
import { change, framed, ink } from "./digits.js";
import { DATA } from "./attack_data.js";

const { layers, digits } = stored(DATA);
const MOST = GRID.at(-1);
const NAMES = { "one step": "one step", "ten steps": "ten steps", "smallest change": "smallest change" };
const STYLES = {
  "one step": [COLOURS.unconstrained, { "stroke-dasharray": "8 4" }],
  "ten steps": [COLOURS.unconstrained, {}],
  "smallest change": [COLOURS.inDistribution, {}],
};
const two = (v) => fixed(v, 2);
const percents = (v) => `${Math.round(100 * v)} %`;

const SMALL = 34; // the width of a digit in the strip to choose from
const strip = (chosen) => digits.flatMap((image, k) => {
  const part = ink(image, [k * SMALL + 4, 4], SMALL - 8);
  part.append(svg("rect", { x: k * SMALL, y: 0, width: SMALL, height: SMALL, fill: "transparent", "data-grip": k, style: "cursor: pointer; touch-action: manipulation" }));
  return k === chosen ? [part, framed([k * SMALL + 4, 4], SMALL - 8, "var(--focus)")] : [part];
});

function sum(x, image, before, after) {
  const says = (at, shares, more) => [
    words([at, 142], `“${labelOf(shares)}”`, { class: "", ...more }),
    words([at, 160], `${percents(Math.max(...shares))} sure`),
  ];
  const fooled = labelOf(after) !== labelOf(before);
  return [
    ink(x, [4, 4], 116), ...says(62, before),
    words([132, 66], "+", { "font-size": 18 }),
    change(image.map((v, k) => v - x[k]), [144, 36], 52), words([170, 106], "change"),
    words([208, 66], "=", { "font-size": 18 }),
    ink(image, [220, 4], 116), ...says(278, after, fooled && { "font-weight": 700 }),
    ...(fooled ? [framed([220, 4], 116, COLOURS.class1)] : []),
  ];
}

// What the network says: a column for each label, the right one in green.
function columns(shares, y) {
  const [height, low] = [56, 62];
  return [...shares].flatMap((share, k) => [
    svg("rect", { x: k * 34 + 7, y: low - height * share, width: 20, height: height * share, fill: k === y ? COLOURS.inDistribution : COLOURS.class1 }),
    line(`M${k * 34 + 4} ${low}h26`, "var(--muted)"),
    words([k * 34 + 17, low + 16], String(k), { class: k === labelOf(shares) ? "" : "quiet", ...(k === labelOf(shares) && { "font-weight": 700 }) }),
  ]);
}

function coursePicture(courses, now, width) {
  const { px, py, y0, y1, parts, curve, value, grip } = frame({
    width, height: 220,
    x: { low: 0, high: MOST, ticks: [0, 0.1, 0.2, 0.3, 0.4, 0.5], text: show, label: "ε, how far a pixel may move" },
    y: { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => `${100 * v}%` },
  });
  for (const [name, { right, first }] of Object.entries(courses)) {
    const [colour, more] = STYLES[name];
    const chosen = name === now.attack;
    parts.push(line(curve(right.map((share, k) => [GRID[k], share])), colour, chosen ? 4 : 2, more));
    if (first) parts.push(spot([px(first.eps), py(right[GRID.indexOf(first.eps)])], chosen ? 6 : 4, "var(--paper)", colour));
  }
  const { right } = courses[now.attack];
  const k = clamp(Math.round(100 * now.eps), 0, GRID.length - 1);
  parts.push(
    line(`M${px(now.eps)} ${y0}V${y1}`, "var(--ink)", 1, { "stroke-dasharray": "3 4" }),
    spot([px(now.eps), py(right[k])], 7, STYLES[now.attack][0], "var(--paper)"),
    grip("eps"),
  );
  return { parts, value };
}

export default widget(["digit", "attack", "eps"], ({ set, slider, choice }) => {
  // What does not depend on the size is computed once for a digit.
  const known = {};
  const about = (y) => (known[y] ??= {
    before: probabilities(layers, digits[y]),
    made: Object.fromEntries(Object.keys(NAMES).map((name) => [name, attackOn(layers, digits[y], y, name)])),
    courses: Object.fromEntries(Object.keys(NAMES).map((name) => [name, course(layers, digits[y], y, name)])),
  });
  const now = ({ digit, attack, eps }) => {
    const [x, { before, made, courses }] = [digits[digit], about(digit)];
    const image = made[attack](eps);
    return { x, image, before, courses, after: probabilities(layers, image), length: lengthOf(x, image) };
  };

  const picture = svg("svg", { role: "img", viewBox: "0 0 340 164", "aria-label": "A digit, the change that the attack makes, and their sum, with the labels that the network gives" });
  const bars = svg("svg", { role: "img", viewBox: "0 0 340 82", "aria-label": "How likely the network holds each of the ten labels to be" });
  const choices = svg("svg", { role: "img", viewBox: `0 0 340 ${SMALL}`, "aria-label": "Ten digits to choose from; the slider for the digit does the same" });
  const plot = canvas("How likely the network holds the right label to be, over the size of the change, for three attacks; rings where another label wins first");
  const rows = Object.fromEntries(Object.keys(NAMES).map((name) => [name, row(dash({ "stroke-width": 3, ...STYLES[name][1] }, STYLES[name][0]), name)]));
  const least = ({ first }) => (first ? `${two(first.eps)} · ${two(first.length)}` : "none");
  const length = html("p");
  const nodes = [
    html("div", { class: "columns" },
      html("div", {}, choices, html("div", { class: "controls" }, picture), html("p", {}, html("small", {}, "probabilities of the labels"), bars)),
      html("div", { class: "centred" },
        choice({ name: "attack", label: "attack", options: NAMES }),
        html("div", { class: "controls" },
          slider({ name: "eps", label: "<i>ε</i>, how far a pixel may move", max: MOST, step: 0.01, colour: COLOURS.unconstrained, text: two }),
          slider({ name: "digit", label: "digit", max: 9, text: show })),
        length,
        html("p", {}, html("small", {}, "first fooled at ", html("i", {}, "ε"), " · length of that change")),
        legend(rows))),
    html("div", { class: "controls" }, html("small", {}, "probability of the right label"), plot),
  ];
  drag(choices, (grip) => set({ digit: +grip }));
  let shown;
  drag(plot, (grip, px) => set({ eps: round(shown.value(px), 0.01) }));

  const draw = (values, width) => {
    const { x, image, before, after, courses, ...found } = now(values);
    choices.replaceChildren(...strip(values.digit));
    picture.replaceChildren(...sum(x, image, before, after));
    bars.replaceChildren(...columns(after, values.digit));
    shown = coursePicture(courses, values, width);
    plot.setAttribute("viewBox", `0 0 ${width} 220`);
    plot.replaceChildren(...shown.parts);
    length.textContent = `length of this change: ${two(found.length)}`;
    for (const name of Object.keys(NAMES)) rows[name].value.textContent = least(courses[name]);
  };
  const summary = (values) => {
    const { after, courses, ...found } = now(values);
    const fewest = Object.entries(courses).map(([name, { first }]) =>
      first ? `${name} from ε = ${two(first.eps)}, length ${two(first.length)}` : `${name} nowhere up to ε = ${MOST}`);
    return `The ${values.digit}, ${values.attack}, ε = ${two(values.eps)}: the network says ${labelOf(after)}, ${percents(Math.max(...after))} sure, ` +
      `and gives the right label ${percent(after[values.digit])}; the change is ${two(found.length)} long. It is first fooled by ${fewest.join("; ")}.`;
  };
  return { nodes, draw, summary };
});

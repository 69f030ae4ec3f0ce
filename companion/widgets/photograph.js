// A photograph, the signs along which its colours are moved, and the sum; what a network says at every size.
import { COLOURS, canvas, dash, drag, frame, html, legend, line, percent, row, show, spot, svg, swatch, widget, words } from "./view.js";
import { bytes, signs } from "./bytes.js";
import { address } from "./pixels.js";
import { answer, moved } from "./photograph_math.js";
import { DATA } from "./photograph_data.js";

const SIDE = 32;
const MOST = 16;
const WAYS = { gradient: "signs of the gradient", random: "random signs" };

const image = (colours, x, y, size, more = {}) => svg("image", { href: address(SIDE, colours), x, y, width: size, height: size, ...more });

const patternOf = ({ network, direction, photograph }) => DATA.networks[network][direction].signs[photograph];
const kept = (now) => answer(DATA, { ...now, shades: 0 });
const sureOf = (one) => `${Math.round(100 * one.sure)} % sure`;

function sum(now) {
  const colours = DATA.photographs[now.photograph];
  const pattern = patternOf(now);
  const [before, after] = [kept(now), answer(DATA, now)];
  const under = (x, one) => [
    words([x, 146], `“${one.label}”`, { class: "", ...(one.fooled && { "font-weight": 700 }) }),
    words([x, 165], sureOf(one)),
  ];
  return [
    image(bytes(colours), 0, 0, 126), ...under(63, before),
    words([170, 36], `+ ${now.shades}/255 ×`),
    image(Array.from(signs(pattern), (way) => 128 + 90 * way), 148, 44, 44, { style: "image-rendering: pixelated" }),
    words([170, 112], "="),
    image(moved(colours, pattern, now.shades), 214, 0, 126), ...under(277, after),
    ...(after.fooled ? [svg("rect", { x: 215.5, y: 1.5, width: 123, height: 123, fill: "none", stroke: COLOURS.class1, "stroke-width": 3 })] : []),
  ];
}

// All photographs, to choose one by a tap.
const STRIP = 340 / 6;
const strip = (now) => DATA.photographs.flatMap((colours, k) => [
  image(bytes(colours), k * STRIP + 3, 3, STRIP - 6, { "data-grip": `photograph-${k}`, style: "cursor: pointer; touch-action: manipulation" }),
  ...(k === now.photograph ? [svg("rect", { x: k * STRIP + 1.5, y: 1.5, width: STRIP - 3, height: STRIP - 3, rx: 3, fill: "none", stroke: "var(--focus)", "stroke-width": 3 })] : []),
]);

function coursePicture(now, width) {
  const { px, py, y0, y1, parts, curve, value, grip } = frame({
    width, height: 220,
    x: { low: 0, high: MOST, ticks: [0, 4, 8, 12, 16], text: show, label: "size, in shades of 255" },
    y: { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => `${100 * v}%` },
  });
  const styles = { gradient: [COLOURS.unconstrained, 3, {}], random: ["var(--muted)", 2, { "stroke-dasharray": "6 4" }] };
  for (const [direction, style] of Object.entries(styles)) {
    const one = answer(DATA, { ...now, direction });
    parts.push(line(curve(one.right.map((share, k) => [k, share])), ...style));
    // Full where the label is another one.
    one.right.forEach((share, k) => {
      const { fooled } = answer(DATA, { ...now, direction, shades: k });
      parts.push(spot([px(k), py(share)], 4, fooled ? style[0] : "var(--paper)", style[0]));
    });
  }
  const [one, [colour]] = [answer(DATA, now), styles[now.direction]];
  parts.push(
    line(`M${px(now.shades)} ${y0}V${y1}`, "var(--ink)", 1, { "stroke-dasharray": "3 4" }),
    spot([px(now.shades), py(one.right[now.shades])], 7, one.fooled ? colour : "var(--paper)", colour),
    grip("shades"),
  );
  return { parts, value };
}

const since = (first) => (first === null ? "never" : `${first}/255`);

function summary(now) {
  const one = answer(DATA, now);
  const right = DATA.classes[DATA.labels[now.photograph]];
  const told = now.shades ? `After a move of ${now.shades} of 255 shades along ${WAYS[now.direction]}, the network` : "Unchanged, the network";
  const fewest = (direction) => {
    const { first } = answer(DATA, { ...now, direction });
    return first === null ? `never up to ${MOST} shades` : `from ${first} ${first === 1 ? "shade" : "shades"} on`;
  };
  return `Photograph ${now.photograph + 1}, ${right}. ${told} (${DATA.networks[now.network].name}) says ${one.label}, ${sureOf(one)}. ` +
    `Another label wins along the gradient ${fewest("gradient")}, along random signs ${fewest("random")}.`;
}

export default widget(["photograph", "network", "direction", "shades"], ({ set, slider, choice }) => {
  const picture = svg("svg", { role: "img", viewBox: "0 0 340 170", "aria-label": "A photograph, a square of signs, and their sum, with the labels that the network gives" });
  const choices = svg("svg", { role: "img", viewBox: `0 0 340 ${STRIP}`, "aria-label": "Six photographs to choose from; the slider below does the same" });
  const plot = canvas("How likely the network holds the first label to be, over the size of the change: along the gradient and along random signs");
  const rows = {
    right: row(swatch("transparent"), "first label <small>now</small>"),
    gradient: row(dash({ "stroke-width": 3 }, COLOURS.unconstrained), "gradient <small>another label at</small>"),
    random: row(dash({ "stroke-dasharray": "6 4" }, "var(--muted)"), "random <small>another label at</small>"),
  };
  const names = Object.fromEntries(Object.entries(DATA.networks).map(([kind, { name }]) => [kind, name]));
  const nodes = [
    html("div", { class: "columns" },
      html("div", {}, picture, html("div", { class: "controls" }, choices,
        slider({ name: "photograph", label: "photograph", max: DATA.photographs.length - 1, text: (k) => `${k + 1}, ${DATA.classes[DATA.labels[k]]}` }))),
      html("div", { class: "centred" },
        slider({ name: "shades", label: "size, in shades of 255", max: MOST, colour: COLOURS.unconstrained, text: show }),
        choice({ name: "direction", label: "direction", options: WAYS }),
        html("div", { class: "controls" }, choice({ name: "network", label: "network", options: names })),
        html("div", { class: "controls" }, legend(rows)))),
    html("div", { class: "controls" }, html("small", {}, "probability of the first label; full dots: another label wins"), plot),
    html("p", {}, html("small", {}, "The answers were computed beforehand: these networks are too large for a page. The pictures are put together here, and are to the last bit those that the networks saw.")),
  ];
  drag(choices, (grip) => set({ photograph: +grip.split("-")[1] }));
  let shown;
  drag(plot, (grip, px) => set({ shades: Math.round(shown.value(px)) }));
  const draw = (now, width) => {
    picture.replaceChildren(...sum(now));
    choices.replaceChildren(...strip(now));
    shown = coursePicture(now, width);
    plot.setAttribute("viewBox", `0 0 ${width} 220`);
    plot.replaceChildren(...shown.parts);
    rows.right.value.textContent = percent(answer(DATA, now).right[now.shades]);
    for (const direction of Object.keys(WAYS)) rows[direction].value.textContent = since(answer(DATA, { ...now, direction }).first);
  };
  return { nodes, draw, summary };
});

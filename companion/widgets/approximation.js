// Real and generated points, the cheapest pairing of the two, and how W₁ of samples depends on their size.
import { COLOURS, canvas, clamp, dash, drag, fixed, frame, html, legend, line, path, round, row, spot, svg, swatch, target, widget, words } from "./view.js";
import { MOST, meanDistances, meanRadius, pairing } from "./approximation_math.js";
import { plane } from "./plane.js";

const SIZE = 340;
const REACH = 2.6; // coordinates of the points, before the shift
const { at, from } = plane(SIZE, 46);
const TOP = 3; // of the vertical axis
const GENERATED = COLOURS.inDistribution;
const means = {}; // by shift

const shown = ({ n, real, generated, shift }) => ({
  real: real.slice(0, n), generated: generated.slice(0, n).map(([x, y]) => [x + shift, y]),
});
const nameOf = (k) => (k < MOST ? `real ${k + 1}` : `generated ${k - MOST + 1}`);

function planePicture(now) {
  const { real, generated } = shown(now);
  const { partner } = pairing(real, generated);
  const law = (shift, colour, more) => svg("circle", { cx: at([shift, 0])[0], cy: SIZE / 2, r: 46, fill: "none", stroke: colour, "stroke-width": 1.5, opacity: 0.6, ...more });
  const parts = [
    svg("rect", { width: SIZE, height: SIZE, fill: "var(--ink)", opacity: 0.05 }),
    law(0, "var(--ink)"), law(now.shift, GENERATED, { "stroke-dasharray": "8 5" }),
    line(`M${SIZE / 2} 0V${SIZE}`, "var(--muted)", 1.5, { "stroke-dasharray": "6 5" }),
    words([SIZE / 2 + 6, SIZE - 8], "boundary of f", { "text-anchor": "start" }),
    ...real.map((p, k) => line(path([at(p), at(generated[partner[k]])]), COLOURS.latent, 3, { "stroke-linecap": "round" })),
    ...real.map((p) => spot(at(p), 7, "var(--ink)", "var(--paper)")),
  ];
  for (const [x, y] of generated.map(at)) parts.push(svg("rect", { x: x - 7, y: y - 7, width: 14, height: 14, fill: GENERATED, stroke: "var(--paper)", "stroke-width": 2 }));
  const all = [...real.map((p, k) => [p, k]), ...generated.map((p, k) => [p, MOST + k])];
  // A ring around the point that the sliders move.
  for (const [p, k] of all) if (k === now.point) parts.push(svg("circle", { cx: at(p)[0], cy: at(p)[1], r: 13, fill: "none", stroke: "var(--focus)", "stroke-width": 2.5 }));
  parts.push(...all.map(([p, k]) => target(at(p), String(k), `drag: move ${nameOf(k)}`, 16)));
  return parts;
}

function sizePicture(now, width) {
  const ticks = Array.from({ length: MOST }, (_, k) => k + 1);
  const { px, py, x0, x1, y0, y1, parts, curve, value, grip } = frame({
    width, height: 220,
    x: { low: 1, high: MOST, ticks, text: String, label: "n, points in each sample" },
    y: { low: 0, high: TOP, ticks: [0, 1, 2, 3], text: String },
  });
  const mean = (means[now.shift] ??= meanDistances(now.shift));
  const own = ticks.map((n) => {
    const { real, generated } = shown({ ...now, n });
    return [n, Math.min(TOP, pairing(real, generated).distance)];
  });
  parts.push(
    line(`M${x0} ${py(now.shift)}H${x1}`, GENERATED, 3, { "stroke-dasharray": "8 5" }),
    line(curve(mean.map((v, k) => [k + 1, Math.min(TOP, v)])), "var(--ink)", 3.5),
    line(curve(own), COLOURS.latent, 2),
    line(`M${px(now.n)} ${y0}V${y1}`, "var(--ink)", 1, { "stroke-dasharray": "3 4" }),
    svg("circle", { cx: px(now.n), cy: py(own[now.n - 1][1]), r: 7, fill: COLOURS.latent, stroke: "var(--paper)", "stroke-width": 2 }),
    grip("n"),
  );
  return { parts, value, mean };
}

function summary(now) {
  const { real, generated } = shown(now);
  const { distance } = pairing(real, generated);
  const [left, right] = [meanRadius(real), meanRadius(generated)];
  return `W₁ of the ${now.n} real and ${now.n} generated points is ${fixed(distance, 3)}; the laws that they are drawn from are ${fixed(now.shift, 2)} apart. ` +
    `The mean distance to the boundary of f is ${fixed(left, 3)} for real and ${fixed(right, 3)} for generated points: they differ by ${fixed(Math.abs(left - right), 3)}, and by no more than W₁.`;
}

export default widget(["n", "shift", "real", "generated", "point"], ({ state, set, slider }) => {
  const picture = canvas("Real points (discs) and generated points (squares), joined to their partners", SIZE);
  const plot = canvas("W₁ of samples over their size: these points, the mean over many samples, and W₁ of the laws");
  const square = svg("svg", { viewBox: "0 0 26 16", "aria-hidden": "true", class: "mark" }, svg("rect", { x: 6, y: 1, width: 14, height: 14, fill: GENERATED }));
  const disc = svg("svg", { viewBox: "0 0 26 16", "aria-hidden": "true", class: "mark" }, svg("circle", { cx: 13, cy: 8, r: 7, fill: "var(--ink)" }));
  const rows = {
    distance: row(swatch(COLOURS.latent), "<i>W</i>₁ <small>of these points</small>"),
    mean: row(dash({ "stroke-width": 4 }), "its mean <small>over 100 samples</small>"),
    law: row(dash({ "stroke-dasharray": "8 5" }, GENERATED), "<i>W</i>₁ <small>of the laws</small>"),
    real: row(disc, "mean <i>r</i><sub>unc</sub> <small>real</small>"),
    generated: row(square, "mean <i>r</i><sub>unc</sub> <small>generated</small>"),
    difference: row(swatch("transparent"), "difference <small>at most <i>W</i>₁</small>"),
  };
  // Sets one point, given as the picture shows it.
  const put = (k, [x, y]) => {
    const { real, generated, shift } = state();
    const [name, points, moved] = k < MOST ? ["real", real, 0] : ["generated", generated, shift];
    const spotted = [x - moved, y].map((v) => clamp(round(v, 0.01), -REACH, REACH));
    set({ point: k, [name]: points.map((p, i) => (i === k % MOST ? spotted : p)) });
  };
  const chosen = () => {
    const { real, generated, shift, point } = state();
    return point < MOST ? real[point] : [generated[point - MOST][0] + shift, generated[point - MOST][1]];
  };
  const coordinate = (name, label, index) => slider({
    name, label, min: -REACH, max: REACH + 1, step: 0.01, text: (v) => fixed(v, 2),
    read: () => chosen()[index], write: (v) => put(state().point, chosen().map((old, i) => (i === index ? v : old))),
  });
  const sliders = [
    slider({ name: "n", label: "<i>n</i>, points in each sample", min: 1, max: MOST, text: String }),
    slider({ name: "shift", label: "how far the laws are apart", max: 1, step: 0.01, colour: GENERATED, text: (v) => fixed(v, 2) }),
    slider({ name: "point", label: "point to move", max: 2 * MOST - 1, text: (k) => nameOf(k) + (k % MOST < state().n ? "" : ", hidden") }),
    coordinate("across", "the point, across", 0),
    coordinate("up", "the point, up", 1),
  ];
  drag(picture, (grip, px, py) => put(+grip, from(px, py)));
  let drawn;
  drag(plot, (grip, px) => set({ n: Math.round(drawn.value(px)) }));
  const draw = (now, width) => {
    const { real, generated } = shown(now);
    picture.replaceChildren(...planePicture(now));
    drawn = sizePicture(now, width);
    plot.setAttribute("viewBox", `0 0 ${width} 220`);
    plot.replaceChildren(...drawn.parts);
    const [left, right] = [meanRadius(real), meanRadius(generated)];
    const values = { distance: pairing(real, generated).distance, mean: drawn.mean[now.n - 1], law: now.shift, real: left, generated: right, difference: Math.abs(left - right) };
    for (const [name, value] of Object.entries(values)) rows[name].value.textContent = fixed(value, 3);
  };
  const nodes = [
    html("div", { class: "columns" },
      picture,
      html("div", { class: "centred" },
        legend(rows),
        html("div", { class: "controls" }, ...sliders.slice(0, 2)))),
    plot,
    html("div", { class: "columns controls" }, ...sliders.slice(2)),
  ];
  return { nodes, draw, summary };
});

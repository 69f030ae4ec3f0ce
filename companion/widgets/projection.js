// The half-plane f beside f̃, which asks about the nearest point of the circle: two pictures of the same plane.
import { COLOURS, area, canvas, clamp, dot, drag, fixed, handle, html, legend, line, path, round, row, show, spot, svg, swatch, target, widget, words } from "./view.js";
import { arc, radii } from "./circle_math.js";
import { plane } from "./plane.js";
import { labelOf, nearest, projectedRadius, witness } from "./projection_math.js";

const SIZE = 300;
const REACH = 1.45; // y stays within this distance of the axes
const { at, on, sweep, along, lineOf, sideOf, from } = plane(SIZE, 98);
const CLASSES = [COLOURS.class0, COLOURS.class1];
const ROUND = { "stroke-linecap": "round" };

function regions(shape, { angle, offset }) {
  const { centre, halfWidth } = arc(angle, offset);
  const parts = [svg("rect", { width: SIZE, height: SIZE, fill: CLASSES[0], opacity: 0.13 })];
  if (shape) parts.push(area(shape, "var(--paper)"), area(shape, CLASSES[1], 0.16));
  parts.push(svg("circle", { cx: SIZE / 2, cy: SIZE / 2, r: 98, fill: "none", stroke: CLASSES[halfWidth === 0.5 ? 1 : 0], "stroke-width": 5 }));
  if (halfWidth > 0 && halfWidth < 0.5) parts.push(line(sweep(centre - halfWidth, centre + halfWidth), CLASSES[1], 5));
  return parts;
}

// The two points that both pictures have, in the colours that the picture's classifier gives them.
const points = (now, x, y, label) => [
  ...dot(at(y), CLASSES[label(y)], "y"), target(at(y), "y", "drag: move y"),
  ...dot(at(x), CLASSES[label(x)], "x"), target(at(x), "z", "drag: move x along the circle"),
];
const title = (name, value) => words([SIZE / 2, 20], `${name}: the other class is ${fixed(value, 3)} away`, { class: "halo" });

function before(now) {
  const { angle, offset, z, y } = now;
  const { centre } = arc(angle, offset);
  const [n, x] = [on(centre), on(z)];
  const across = n[0] * x[0] + n[1] * x[1] - offset;
  const tip = along(centre, 1.3, 0);
  return [
    ...regions(sideOf(centre, offset), now),
    line(lineOf(centre, offset), "var(--ink)", 2),
    line(lineOf(centre, offset), "transparent", 28, { "data-grip": "offset" }),
    line(path([along(centre, offset, 0), tip]), "var(--ink)", 1.5, { "stroke-dasharray": "2 5", ...ROUND }),
    ...handle(along(centre, offset, 0), "offset", "drag: move the line"),
    ...handle(tip, "angle", "drag: turn the line"),
    line(path([at(x), at([x[0] - across * n[0], x[1] - across * n[1]])]), COLOURS.unconstrained, 5, ROUND),
    title("f", Math.abs(across)),
    ...points(now, x, y, (point) => labelOf(angle, offset, point)),
  ];
}

function after(now) {
  const { angle, offset, z, y } = now;
  const { centre, halfWidth } = arc(angle, offset);
  const { boundary } = radii(angle, offset, z);
  const x = on(z);
  const image = on(nearest(y));
  const wedge = `${sweep(centre - halfWidth, centre + halfWidth, 3)}L${at([0, 0])}Z`;
  const parts = regions(halfWidth === 0.5 ? sideOf(0, -9) : halfWidth && wedge, now);
  if (boundary !== null) {
    const end = on(boundary);
    const reach = Math.max(0, x[0] * end[0] + x[1] * end[1]);
    const [first, second] = [centre - halfWidth, centre + halfWidth].map((turn) => at(on(turn, 3)));
    parts.push(
      line(path([first, at([0, 0]), second]), "var(--ink)", 2),
      line(path([at(x), at(end)]), COLOURS.inDistribution, 4, ROUND),
      spot(at(end), 5, COLOURS.inDistribution, "var(--paper)"),
      line(path([at(x), at([reach * end[0], reach * end[1]])]), COLOURS.unconstrained, 5, ROUND),
    );
  }
  parts.push(
    line(path([at(y), at(image)]), "var(--ink)", 2, { "stroke-dasharray": "2 5", ...ROUND }),
    spot(at(image), 6),
    words(at(image.map((v) => 1.2 * v)).map((v, k) => v + 5 * k), "P(y)", { class: "halo" }),
    title("f̃", projectedRadius(angle, offset, z)),
    ...points(now, x, y, (point) => labelOf(angle, offset, on(nearest(point)))),
  );
  return parts;
}

// Where the ratio of Theorem 2 lies, between one half and one.
function gauge(ratio) {
  const px = (v) => 14 + 292 * v;
  const parts = [svg("rect", { x: px(0.5), y: 10, width: px(1) - px(0.5), height: 12, fill: COLOURS.inDistribution, opacity: 0.3 }), line(`M${px(0)} 22H${px(1)}`, "var(--muted)")];
  for (const [v, text] of [[0, "0"], [0.5, "½"], [1, "1"]]) parts.push(line(`M${px(v)} 22v5`, "var(--muted)"), words([px(v), 40], text));
  if (Number.isFinite(ratio)) parts.push(svg("path", { d: `M${px(ratio)} 8l8 8l-8 8l-8 -8Z`, fill: COLOURS.unconstrained, stroke: "var(--paper)", "stroke-width": 2 }));
  return parts;
}

const joined = ({ y1, y2, ...rest }) => ({ ...rest, y: [y1, y2] });

function summary(values) {
  const { angle, offset, z, y } = joined(values);
  const r = radii(angle, offset, z);
  if (r.boundary === null) return `The line does not cut the circle: f̃ puts the whole plane into class ${r.label}.`;
  const projected = projectedRadius(angle, offset, z);
  const found = witness(angle, offset, z, y);
  const first = labelOf(angle, offset, y) !== r.label;
  const told = first === found.changed ? `${first ? "both are" : "neither is"} fooled` : `only ${first ? "f" : "f̃"} is fooled`;
  return `To change f takes a step of ${fixed(r.unconstrained, 3)}; to change f̃, one of ${fixed(projected, 3)}, which is ${fixed(projected / r.inDistribution, 3)} of ` +
    `${fixed(r.inDistribution, 3)}, the distance along the data. By y, ${fixed(found.length, 3)} away from x, ${told}: ` +
    `P(y) is in class ${found.changed ? 1 - r.label : r.label}, ${fixed(found.distance, 3)} from x.`;
}

export default widget(["angle", "offset", "z", "y1", "y2"], ({ state, set, slider }) => {
  const pictures = [
    canvas("The circle cut by the line of f, the point x on it, the point y, and the shortest step from x over the line", SIZE),
    canvas("The same points and the wedge of f̃: y goes to the nearest point P(y) of the circle", SIZE),
  ];
  const rows = {
    unconstrained: row(swatch(COLOURS.unconstrained), "<i>r</i><sub>unc</sub>(<i>f</i>) <small>over the line</small>"),
    projected: row(swatch(COLOURS.unconstrained), "<i>r</i><sub>unc</sub>(<i>f̃</i>) <small>into the wedge</small>"),
    inDistribution: row(swatch(COLOURS.inDistribution), "<i>r</i><sub>in</sub>(<i>f</i>) <small>along the data</small>"),
    length: row(swatch("var(--ink)"), "‖<i>y</i> − <i>x</i>‖"),
    distance: row(swatch("var(--ink)"), "‖<i>P</i>(<i>y</i>) − <i>x</i>‖ <small>at most twice that</small>"),
    ratio: row(swatch("transparent"), "<i>r</i><sub>unc</sub>(<i>f̃</i>) / <i>r</i><sub>in</sub>(<i>f</i>)"),
  };
  const scale = svg("svg", { viewBox: "0 0 320 46", "aria-hidden": "true" });
  const two = (v) => fixed(v, 2);
  const sliders = [
    slider({ name: "angle", label: "angle of the line", min: -180, max: 180, text: (v) => `${show(v)}°` }),
    slider({ name: "offset", label: "offset of the line", min: -1, max: 1, step: 0.01, text: two }),
    slider({ name: "z", label: "<i>x</i> along the circle, in turns", min: -0.5, max: 0.5, step: 0.01, text: two }),
    slider({ name: "y1", label: "<i>y</i>, across", min: -REACH, max: REACH, step: 0.01, text: two }),
    slider({ name: "y2", label: "<i>y</i>, up", min: -REACH, max: REACH, step: 0.01, text: two }),
  ];
  for (const picture of pictures)
    drag(picture, (grip, px, py) => {
      const point = from(px, py);
      const [c, s] = on(state().angle / 360);
      if (grip === "angle") set({ angle: Math.round(360 * nearest(point)) });
      if (grip === "offset") set({ offset: clamp(round(point[0] * c + point[1] * s, 0.01), -1, 1) });
      if (grip === "z") set({ z: round(nearest(point), 0.005) });
      if (grip === "y") {
        const [y1, y2] = point.map((v) => clamp(round(v, 0.01), -REACH, REACH));
        set({ y1, y2 });
      }
    });
  const draw = (values) => {
    const now = joined(values);
    const { angle, offset, z, y } = now;
    const r = radii(angle, offset, z);
    const projected = projectedRadius(angle, offset, z);
    const ratio = projected / r.inDistribution;
    pictures[0].replaceChildren(...before(now));
    pictures[1].replaceChildren(...after(now));
    scale.replaceChildren(...gauge(ratio));
    const shown = { ...r, projected, ...witness(angle, offset, z, y) };
    for (const [name, { value }] of Object.entries(rows)) value.textContent = fixed(shown[name], 3);
    rows.ratio.value.textContent = Number.isFinite(ratio) ? fixed(ratio, 3) : "–";
  };
  const nodes = [
    html("div", { class: "columns" }, ...pictures),
    html("div", { class: "columns controls" },
      html("div", { class: "centred" }, legend(rows), scale),
      html("div", {}, ...sliders)),
  ];
  return { nodes, draw, summary };
});

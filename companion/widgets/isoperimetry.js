// Paint a set on the Gaussian plane: it grows by t, and so does the half-space of the same mass.
import { COLOURS, area, canvas, clamp, dash, drag, fixed, frame, html, legend, line, path, percent, round, row, svg, swatch, widget, words } from "./view.js";
import { bell, plane } from "./plane.js";
import { quantile } from "./normal.js";
import { CELL, brushed, columns, enlarged, halfSpace, mass, packed, squares } from "./isoperimetry_math.js";

const SIZE = 340;
const UNIT = 54;
const REACH = 3; // the brush stays within this distance of the axes
const { at, from } = plane(SIZE, UNIT);
const SET = COLOURS.class0;
const GAIN = COLOURS.class1;
const NAMES = { "half-space": "half-space", disc: "disc", stripes: "stripes", checkerboard: "checkerboard", nothing: "nothing", own: "your own" };
const points = (value) => `${fixed(round(100 * value, 0.01) + 0, 2)} %`;
const TIMES = Array.from({ length: 17 }, (_, k) => k / 8);

// The set, and how it grows, computed once for each set.
let kept = {};
function setOf({ shape, cells }) {
  const key = shape + (shape === "own" ? cells : "");
  if (kept.key === key) return kept;
  const painted = squares(shape, cells);
  const set = columns(painted);
  kept = { key, painted, set, mass: mass(set), law: TIMES.map((t) => [t, enlarged(set, t, 1)]) };
  return kept;
}

function grownTo(now) {
  const one = setOf(now);
  if (one.t !== now.t) Object.assign(one, { t: now.t, grown: enlarged(one.set, now.t) });
  return one.grown;
}

// A set in blue, what it gains in red, and over both a bell of paper with circles of radius 1 and 2.
const coloured = (gain, d, title) => [
  gain, area(d, "var(--paper)"), area(d, SET, 0.75), ...bell(SIZE, UNIT, 0.8),
  svg("rect", { x: 0.5, y: 0.5, width: SIZE - 1, height: SIZE - 1, rx: 8, fill: "none", stroke: "var(--faint)" }),
  words([12, 22], title, { "text-anchor": "start", class: "halo" }),
  ...[1, 2].map((r) => svg("circle", { cx: SIZE / 2, cy: SIZE / 2, r: r * UNIT, fill: "none", stroke: "var(--muted)", "stroke-dasharray": "2 5" })),
];

function paintedPicture(now) {
  const d = setOf(now).set.flatMap(({ left, runs }) => runs.map(([low, high]) => `${path([[left, low], [left + CELL, low], [left + CELL, high], [left, high]].map(at))}Z`)).join("");
  const [x, y] = at([now.brush_x, now.brush_y]);
  // Drawn with a round pen 2t wide, the border covers just what is within t.
  const gain = svg("path", { d, fill: GAIN, stroke: GAIN, "stroke-width": 2 * now.t * UNIT, "stroke-linejoin": "round", opacity: 0.6 });
  return [
    ...coloured(gain, d, "A: paint here"),
    svg("rect", { width: SIZE, height: SIZE, fill: "transparent", "data-grip": "brush", style: "cursor: crosshair" }),
    svg("circle", { cx: x, cy: y, r: now.brush * UNIT, fill: "none", stroke: "var(--ink)", "stroke-width": 2, ...(now.tool === "erase" && { "stroke-dasharray": "4 4" }), "pointer-events": "none" }),
  ];
}

function halfSpacePicture(now) {
  const p = setOf(now).mass;
  const [edge, far] = [0, now.t].map((t) => (p > 0 ? at([clamp(quantile(p) + t, -9, 9), 0])[0] : -9));
  const upTo = (right) => `M-9 -9H${right}V${SIZE + 9}H-9Z`;
  return coloured(area(upTo(far), GAIN, 0.6), upTo(edge), "the half-space of the same mass");
}

function racePicture(now, width) {
  const { mass: p, law } = setOf(now);
  const { px, py, y0, y1, parts, curve, value, grip } = frame({
    width, height: 230,
    x: { low: 0, high: 2, ticks: [0, 0.5, 1, 1.5, 2], text: (v) => String(v), label: "t, by how much the sets are enlarged" },
    y: { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => `${100 * v}%` },
  });
  const least = Array.from({ length: 81 }, (_, k) => [k / 40, halfSpace(p, k / 40)]);
  const mark = (height, colour) => svg("circle", { cx: px(now.t), cy: py(height), r: 7, fill: colour, stroke: "var(--paper)", "stroke-width": 2 });
  parts.unshift(area(`${curve(least)}L${px(2)} ${y0}L${px(0)} ${y0}Z`, "var(--muted)", 0.15));
  parts.push(
    line(curve(law), GAIN, 3), line(curve(least), "var(--ink)", 3.5),
    line(`M${px(now.t)} ${y0}V${y1}`, "var(--ink)", 1, { "stroke-dasharray": "3 4" }),
    mark(grownTo(now), GAIN), mark(halfSpace(p, now.t), "var(--ink)"),
    words([px(2) - 8, y0 - 12], "no set grows into here", { "text-anchor": "end" }),
    grip("t"),
  );
  return { parts, value };
}

function results(now) {
  const { mass: p } = setOf(now);
  const [found, least] = [grownTo(now), halfSpace(p, now.t)];
  return { mass: p, enlarged: found, least, ahead: found - least };
}

function summary(now) {
  const r = results(now);
  const brush = `The brush is at ${fixed(now.brush_x, 2)} across, ${fixed(now.brush_y, 2)} up.`;
  if (r.mass === 0) return `Nothing is painted. ${brush}`;
  return `The set (${NAMES[now.shape]}) weighs ${percent(r.mass)}. Within ${fixed(now.t, 2)} of it are ${percent(r.enlarged)}; the half-space of the same mass grows to ` +
    `${percent(r.least)}. The set is ahead by ${points(r.ahead)} of all mass. ${brush}`;
}

export default widget(["shape", "cells", "t", "tool", "brush", "brush_x", "brush_y"], ({ state, set, slider, choice }) => {
  const picture = canvas("The painted set and what lies within t of it. Arrow keys move the brush, the space bar paints or erases", SIZE);
  for (const [name, value] of Object.entries({ tabindex: 0, role: "application", "data-lm-suppress-shortcuts": true })) picture.setAttribute(name, value);
  const other = canvas("The half-space of the same mass, and what lies within t of it", SIZE);
  const race = canvas("The masses of the enlarged set and of the enlarged half-space, over t");
  const rows = {
    mass: row(swatch(SET), "<i>ν</i>(<i>A</i>) <small>painted</small>"),
    enlarged: row(dash({ "stroke-width": 3 }, GAIN), "<i>ν</i>(<i>A<sub>t</sub></i>) <small>within <i>t</i> of it</small>"),
    least: row(dash({ "stroke-width": 4 }), "half-space <small><i>Φ</i>(<i>Φ</i>⁻¹(<i>ν</i>(<i>A</i>)) + <i>t</i>)</small>"),
    ahead: row(swatch("transparent"), "ahead by <small>of all mass</small>"),
  };
  const note = html("p", {}, html("small", {}, "The set is made of squares of side ⅛, and is enlarged beyond the frame as well; masses are integrals, off by less than 0.01 %."));
  const two = (v) => fixed(v, 2);
  const sliders = [
    slider({ name: "t", label: "<i>t</i>, enlarge by", max: 2, step: 0.01, colour: GAIN, text: two }),
    slider({ name: "brush", label: "size of the brush", min: 0.1, max: 1, step: 0.05, text: two }),
    slider({ name: "brush_x", label: "brush, across", min: -REACH, max: REACH, step: 0.01, text: two }),
    slider({ name: "brush_y", label: "brush, up", min: -REACH, max: REACH, step: 0.01, text: two }),
  ];
  const shape = choice({ name: "shape", label: "set", options: NAMES });
  const tool = choice({ name: "tool", label: "brush", options: { paint: "paints", erase: "erases" } });

  // Every place of a stroke from `start` to `end` is painted, or erased.
  function stroke(start, end) {
    const now = state();
    const length = Math.ceil(Math.hypot(end[0] - start[0], end[1] - start[1]) / CELL) || 1;
    let { painted } = setOf(now);
    for (let k = 1; k <= length; k++) {
      const place = start.map((v, i) => v + ((end[i] - v) * k) / length);
      painted = brushed(painted, place, now.brush, now.tool === "paint");
    }
    set({ brush_x: end[0], brush_y: end[1], cells: packed(painted), shape: "own" });
  }
  const inside = (point) => point.map((v) => clamp(round(v, 0.01), -REACH, REACH));
  let last = null;
  picture.addEventListener("pointerdown", () => { last = null; });
  drag(picture, (grip, px, py) => {
    const place = inside(from(px, py));
    stroke(last ?? place, place);
    last = place;
  });
  picture.addEventListener("keydown", (event) => {
    const { brush_x: x, brush_y: y } = state();
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    if (!move) return stroke([x, y], [x, y]);
    const [brush_x, brush_y] = inside([x, y].map((v, k) => v + move[k] * (event.shiftKey ? 4 : 1) * CELL));
    set({ brush_x, brush_y });
  });
  let shown;
  drag(race, (grip, px) => set({ t: clamp(round(shown.value(px), 0.01), 0, 2) }));
  const draw = (now, width) => {
    const r = results(now);
    picture.replaceChildren(...paintedPicture(now));
    other.replaceChildren(...halfSpacePicture(now));
    shown = racePicture(now, width);
    race.setAttribute("viewBox", `0 0 ${width} 230`);
    race.replaceChildren(...shown.parts);
    for (const [name, { value }] of Object.entries(rows)) value.textContent = percent(r[name]);
    rows.ahead.value.textContent = points(r.ahead);
  };
  const nodes = [
    shape,
    html("div", { class: "columns controls" }, picture, other),
    html("div", { class: "columns controls" },
      html("div", {}, sliders[0], legend(rows, { class: "controls" }), note),
      html("div", {}, tool, html("div", { class: "controls" }, ...sliders.slice(1)))),
    race,
  ];
  return { nodes, draw, summary };
});

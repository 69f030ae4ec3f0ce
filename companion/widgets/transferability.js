// Two lines on the circle, and the one v that fools both: in the plane, and as a fraction of the data beside Theorem 3.
import { COLOURS, area, canvas, clamp, dash, dot, drag, fixed, frame, handle, html, legend, line, named, path, percent, round, row, show, spot, svg, swatch, target, widget, words } from "./view.js";
import { clip, plane, square } from "./plane.js";
import { fooled, joint, secondAngle, transferBound } from "./transferability_math.js";

const SIZE = 340;
const { at, on, along, lineOf, from } = plane(SIZE, 104);
const ROUND = { "stroke-linecap": "round" };
const TIPS = [1.26, 1.5]; // where the handles of f and of h stand

function planePicture(now) {
  const { angle, offset, delta, z } = now;
  const found = joint(angle, offset, delta, z);
  const turns = [angle / 360, secondAngle(angle, delta) / 360];
  const x = on(z);
  const polygon = (points) => `${path(points.map(at))}Z`;
  // Where a label is another than x's: a side of each line; where both are, a wedge.
  const beyond = (points, k) => clip(points, on(turns[k]).map((v) => -found.signs[k] * v), -found.signs[k] * offset);
  const parts = [0, 1].map((k) => area(polygon(beyond(square(2), k)), "var(--ink)", 0.11));
  const both = beyond(beyond(square(2), 0), 1);
  if (both.length) parts.push(area(polygon(both), COLOURS.latent, 0.3));
  parts.push(svg("circle", { cx: SIZE / 2, cy: SIZE / 2, r: 104, fill: "none", stroke: "var(--ink)", "stroke-width": 2.5 }));
  turns.forEach((turn, k) => {
    const tip = along(turn, TIPS[k], 0);
    parts.push(
      line(lineOf(turn, offset), "var(--ink)", 2, k ? { "stroke-dasharray": "9 4" } : {}),
      line(path([along(turn, offset, 0), tip]), "var(--ink)", 1.5, { "stroke-dasharray": "2 5", ...ROUND }),
      spot(tip, 11), named(tip, "fh"[k]),
      target(tip, ["angle", "delta"][k], ["drag: turn both lines", "drag: turn h away from f"][k]),
    );
  });
  parts.push(...handle(along(turns[0], offset, 0), "offset", "drag: move both lines"));
  if (found.alongEnd) parts.push(line(path([at(x), at(found.alongEnd)]), COLOURS.inDistribution, 4, ROUND), spot(at(found.alongEnd), 6, COLOURS.inDistribution, "var(--paper)"));
  parts.push(
    line(path([at(x), at(found.freeEnd)]), COLOURS.unconstrained, 5, ROUND),
    spot(at(found.freeEnd), 6, COLOURS.unconstrained, "var(--paper)"),
    ...dot(at(x), "var(--dot)", "x"), target(at(x), "z", "drag: move the point"),
  );
  return parts;
}

function lawPicture({ angle, offset, delta, eta }, width) {
  const { px, py, y0, y1, parts, curve, value, grip } = frame({
    width, height: 220,
    x: { low: 0, high: 2, ticks: [0, 0.5, 1, 1.5, 2], text: show, label: "η, how long v may be" },
    y: { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => `${100 * v}%` },
  });
  const found = Array.from({ length: 720 }, (_, k) => joint(angle, offset, delta, (k + 0.5) / 720).free).sort((a, b) => a - b);
  const law = [[0, 0], ...found.map((v, k) => [Math.min(v, 2), k / 720]), [Math.min(found[719], 2), 1], [2, 1]];
  const grid = Array.from({ length: 100 }, (_, k) => (1.999 * k) / 99);
  parts.push(
    line(curve(law), COLOURS.unconstrained, 3),
    line(curve(grid.map((v) => [v, transferBound(offset, delta, v)])), "var(--ink)", 3.5),
    line(`M${px(eta)} ${y0}V${y1}`, "var(--ink)", 1, { "stroke-dasharray": "3 4" }),
    spot([px(eta), py(fooled(angle, offset, delta, eta))], 7, COLOURS.unconstrained, "var(--paper)"),
    spot([px(eta), py(transferBound(offset, delta, eta))], 7, "var(--ink)", "var(--paper)"),
    grip("eta"),
  );
  return { parts, value };
}

function summary({ angle, offset, delta, z, eta }) {
  const found = joint(angle, offset, delta, z);
  const promise = transferBound(offset, delta, eta);
  const circle = found.alongEnd ? `${fixed(found.along, 3)} to a point of the circle that does` : "and no point of the circle does";
  return `f and h disagree on ${percent(delta)} of the data. From x, the nearest point that fools both is ${fixed(found.free, 3)} away, ${circle}. ` +
    `One v of length at most ${show(eta)} fools both for ${percent(fooled(angle, offset, delta, eta))} of the data; Theorem 3 promises ${promise > 0 ? `at least ${percent(promise)}` : "nothing"}.`;
}

export default widget(["angle", "offset", "delta", "z", "eta"], ({ state, set, slider }) => {
  const picture = canvas("The circle and the lines of f and h; shaded, where one or both labels differ from those of x; the shortest steps there", SIZE);
  const plot = canvas("How much of the data one v fools, over its length, and the bound of Theorem 3");
  const rows = {
    first: row(swatch("transparent"), "<i>r</i><sub>unc</sub>(<i>f</i>) <small>fools <i>f</i></small>"),
    second: row(swatch("transparent"), "<i>r</i><sub>unc</sub>(<i>h</i>) <small>fools <i>h</i></small>"),
    free: row(swatch(COLOURS.unconstrained), "one <i>v</i> for both <small>from <i>x</i></small>"),
    along: row(swatch(COLOURS.inDistribution), "the same <small>along the data</small>"),
    fraction: row(dash({ "stroke-width": 3 }, COLOURS.unconstrained), "one <i>v</i>, ‖<i>v</i>‖ ≤ <i>η</i> <small>of the data</small>"),
    bound: row(dash({ "stroke-width": 4 }), "Theorem 3 <small>at least</small>"),
  };
  const two = (v) => fixed(v, 2);
  const sliders = [
    slider({ name: "delta", label: "<i>δ</i>, how often they disagree", max: 0.4, step: 0.005, text: percent }),
    slider({ name: "angle", label: "angle of <i>f</i>", min: -180, max: 180, text: (v) => `${show(v)}°` }),
    slider({ name: "offset", label: "offset of both lines", min: -0.8, max: 0.8, step: 0.01, text: two }),
    slider({ name: "z", label: "<i>x</i> along the circle, in turns", min: -0.5, max: 0.5, step: 0.01, text: two }),
    slider({ name: "eta", label: "<i>η</i>, how long <i>v</i> may be", max: 2, step: 0.01, colour: COLOURS.unconstrained, text: two }),
  ];
  drag(picture, (grip, px, py) => {
    const [a, b] = from(px, py);
    const turn = Math.atan2(b, a) / (2 * Math.PI);
    const { angle } = state();
    const [c, s] = on(angle / 360);
    if (grip === "angle") set({ angle: Math.round(360 * turn) });
    if (grip === "offset") set({ offset: clamp(round(a * c + b * s, 0.01), -0.8, 0.8) });
    if (grip === "z") set({ z: round(turn, 0.005) });
    if (grip === "delta") {
      const apart = turn - angle / 360;
      set({ delta: clamp(round(2 * (apart - Math.round(apart)), 0.005), 0, 0.4) });
    }
  });
  let shown;
  drag(plot, (grip, px) => set({ eta: round(shown.value(px), 0.01) }));
  const draw = (now, width) => {
    const { angle, offset, delta, z, eta } = now;
    picture.replaceChildren(...planePicture(now));
    shown = lawPicture(now, width);
    plot.setAttribute("viewBox", `0 0 ${width} 220`);
    plot.replaceChildren(...shown.parts);
    const { single, free, along } = joint(angle, offset, delta, z);
    const values = { first: single[0], second: single[1], free, along };
    for (const [name, value] of Object.entries(values)) rows[name].value.textContent = fixed(value, 3);
    rows.fraction.value.textContent = percent(fooled(angle, offset, delta, eta));
    rows.bound.value.textContent = percent(transferBound(offset, delta, eta));
  };
  const nodes = [
    html("div", { class: "columns" },
      picture,
      html("div", { class: "centred" },
        legend(rows),
        html("div", { class: "controls" }, ...sliders.slice(0, 2)))),
    html("div", { class: "columns controls" }, ...sliders.slice(2)),
    plot,
  ];
  return { nodes, draw, summary };
});

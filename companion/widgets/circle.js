// The circle cut by a line: the three radii of a point, in the plane and in latent space.
import { COLOURS, area, canvas, clamp, dot, drag, fixed, handle, html, legend, line, named, path, percent, round, row, show, spot, svg, swatch, target, widget, words } from "./view.js";
import { arc, classProbabilities, radii } from "./circle_math.js";
import { density } from "./normal.js";
import { plane } from "./plane.js";

const SIZE = 340;
const { at, on, sweep, along, lineOf, sideOf, from } = plane(SIZE, 112);
const CLASSES = [COLOURS.class0, COLOURS.class1];
const ROUND = { "stroke-linecap": "round" };

function planePicture({ angle, offset, z }) {
  const found = radii(angle, offset, z);
  const { centre, halfWidth } = arc(angle, offset);
  const x = at(on(z));
  const foot = (() => {
    const [n, p] = [on(centre), on(z)];
    const across = n[0] * p[0] + n[1] * p[1] - offset;
    return at([p[0] - across * n[0], p[1] - across * n[1]]);
  })();
  const label = (p, q, symbol, index, away) => {
    const length = Math.hypot(q[0] - p[0], q[1] - p[1]);
    if (length < 34) return [];
    const shift = [(-(q[1] - p[1]) / length) * 15 * away, ((q[0] - p[0]) / length) * 15 * away];
    return [named([(p[0] + q[0]) / 2 + shift[0], (p[1] + q[1]) / 2 + shift[1]], symbol, index)];
  };
  const parts = [
    svg("rect", { width: SIZE, height: SIZE, fill: CLASSES[0], opacity: 0.13 }),
    area(sideOf(centre, offset), "var(--paper)"),
    area(sideOf(centre, offset), CLASSES[1], 0.16),
    svg("circle", { cx: SIZE / 2, cy: SIZE / 2, r: 112, fill: "none", stroke: CLASSES[halfWidth === 0.5 ? 1 : 0], "stroke-width": 6 }),
  ];
  if (found.boundary !== null) parts.push(line(sweep(centre - halfWidth, centre + halfWidth), CLASSES[1], 6));
  const side = (turn, name) => words(at(on(turn, 1.25)).map((v, k) => v + 4 * k), name);
  const tip = along(centre, 1.36, 0);
  parts.push(
    side(centre + 0.5, "class 0"), side(centre + 0.075, "class 1"),
    line(lineOf(centre, offset), "var(--ink)", 2),
    line(lineOf(centre, offset), "transparent", 28, { "data-grip": "offset" }),
    line(path([along(centre, offset, 0), tip]), "var(--ink)", 1.5, { "stroke-dasharray": "2 5", ...ROUND }),
    ...handle(along(centre, offset, 0), "offset", "drag: move the line"),
    ...handle(tip, "angle", "drag: turn the line"),
  );
  if (found.boundary !== null) {
    const end = at(on(found.boundary));
    // Names stand outside the triangle of x, foot and end; that of r_in inside, where there is room.
    const cross = (end[0] - x[0]) * (foot[1] - x[1]) - (end[1] - x[1]) * (foot[0] - x[0]);
    const turn = cross < 0 ? -1 : 1;
    const roomy = Math.abs(cross) / Math.hypot(end[0] - x[0], end[1] - x[1]) > 42;
    parts.push(
      line(sweep(z, found.boundary, 1.13), COLOURS.latent, 4, ROUND),
      line(path([x, end]), COLOURS.inDistribution, 4, ROUND),
      line(path([x, foot]), COLOURS.unconstrained, 4, ROUND),
      spot(end),
      ...label(x, end, "r", "in", roomy ? turn : -turn),
      ...label(x, foot, "r", "unc", turn * 1.25),
    );
    if (found.latent > 0.09) parts.push(named(at(on((z + found.boundary) / 2, 1.27)), "r", "Z"));
  } else parts.push(line(path([x, foot]), COLOURS.unconstrained, 4, ROUND), ...label(x, foot, "r", "unc", 1.2));
  parts.push(...dot(x, CLASSES[found.label], "x"), target(x, "z", "drag: move the point"));
  return parts;
}

const SPAN = 2.6; // the latent line shows z from -SPAN to SPAN
const HEIGHT = 140;
const BASE = 90;

function latentPicture({ angle, offset, z }, width) {
  const found = radii(angle, offset, z);
  const { centre, halfWidth } = arc(angle, offset);
  const px = (value) => (width * (value + SPAN)) / (2 * SPAN);
  const py = (value) => BASE - 178 * density(value);
  const below = (low, high) => {
    const steps = Math.max(2, Math.ceil((high - low) * 24));
    const points = Array.from({ length: steps + 1 }, (_, k) => low + ((high - low) * k) / steps);
    return `M${px(low)} ${BASE}` + points.map((v) => `L${px(v)} ${py(v)}`).join("") + `L${px(high)} ${BASE}Z`;
  };
  const stripes = svg("g", { opacity: 0.8 }, area(below(-SPAN, SPAN), CLASSES[0]));
  for (let turn = -4; turn <= 4; turn++) {
    const [a, b] = [Math.max(turn + centre - halfWidth, -SPAN), Math.min(turn + centre + halfWidth, SPAN)];
    if (a < b) stripes.append(area(below(a, b), CLASSES[1]));
  }
  const parts = [stripes, line(`M0 ${BASE}H${width}`, "var(--muted)")];
  for (let tick = -2; tick <= 2; tick++)
    parts.push(line(`M${px(tick)} ${BASE}v5`, "var(--muted)"), words([px(tick), HEIGHT - 4], String(tick).replace("-", "−")));
  parts.push(words([4, 16], "z ∼ N(0, 1)", { "text-anchor": "start" }));
  if (found.boundary !== null) {
    const [a, b] = [px(z), px(found.boundary)];
    parts.push(
      line(`M${a} ${BASE}H${b}`, "var(--paper)", 9),
      line(`M${a} ${BASE}H${b}`, COLOURS.latent, 5),
      line(`M${b} ${BASE - 12}V${BASE + 8}`, "var(--ink)", 2),
    );
    if (Math.abs(a - b) > 24) parts.push(named([(a + b) / 2, BASE - 14], "r", "Z"));
  }
  parts.push(
    line(`M${px(z)} ${BASE - 6}V${BASE + 20}`, "var(--ink)", 2),
    ...dot([px(z), BASE + 20], CLASSES[found.label], "z"),
    svg("rect", { x: px(z) - 20, y: BASE - 20, width: 40, height: 60, fill: "transparent", "data-grip": "z" }, svg("title", {}, "drag: move z")),
  );
  return parts;
}

function summary({ angle, offset, z }) {
  const r = radii(angle, offset, z);
  const fraction = percent(classProbabilities(angle, offset)[r.label]);
  if (r.boundary === null) return `The line does not cut the circle: every point is in class ${r.label}, and no point of the circle is adversarial.`;
  return `x is in class ${r.label} (${fraction} of the data). The nearest point of the other class is ${fixed(r.unconstrained, 3)} away in the plane, ` +
    `${fixed(r.inDistribution, 3)} away on the circle; in latent space z must move by ${fixed(r.latent, 3)}.`;
}

export default widget(["angle", "offset", "z"], ({ state, set, slider }) => {
  const picture = canvas("The circle, the line that divides it, and the three radii of the point x", SIZE);
  const latent = canvas("The latent line: a Gaussian density coloured by class, and the point z");
  const rows = {
    unconstrained: row(swatch(COLOURS.unconstrained), "<i>r</i><sub>unc</sub> <small>straight to the line</small>"),
    inDistribution: row(swatch(COLOURS.inDistribution), "<i>r</i><sub>in</sub> <small>chord to the boundary</small>"),
    latent: row(swatch(COLOURS.latent), "<i>r</i><sub>Z</sub> <small>in latent space</small>"),
  };
  const bar = html("div", { class: "bar", "aria-hidden": "true" }, ...CLASSES.map((colour) => html("span", { style: `background: ${colour}` })));
  const shares = [0, 1].map(() => html("span"));
  const sliders = [
    slider({ name: "angle", label: "angle of the line", min: -180, max: 180, text: (v) => `${show(v)}°` }),
    slider({ name: "offset", label: "offset of the line", min: -1, max: 1, step: 0.01, text: (v) => fixed(v, 2) }),
    slider({ name: "z", label: "latent point <i>z</i>", min: -2.5, max: 2.5, step: 0.01, text: (v) => fixed(v, 2) }),
  ];
  drag(picture, (grip, px, py) => {
    const [x, y] = from(px, py);
    const { angle, z } = state();
    const turn = Math.atan2(y, x) / (2 * Math.PI);
    const [c, s] = on(angle / 360);
    if (grip === "angle") set({ angle: Math.round(360 * turn) });
    if (grip === "offset") set({ offset: clamp(round(x * c + y * s, 0.01), -1, 1) });
    if (grip === "z") set({ z: clamp(round(turn + Math.round(z - turn), 0.005), -2.5, 2.5) });
  });
  drag(latent, (grip, px) => set({ z: clamp(round((px / latent.viewBox.baseVal.width) * 2 * SPAN - SPAN, 0.005), -2.5, 2.5) }));
  const draw = (now, width) => {
    const r = radii(now.angle, now.offset, now.z);
    const p = classProbabilities(now.angle, now.offset);
    picture.replaceChildren(...planePicture(now));
    latent.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    latent.replaceChildren(...latentPicture(now, width));
    for (const [name, { value }] of Object.entries(rows)) value.textContent = fixed(r[name], 3);
    [0, 1].forEach((k) => {
      bar.children[k].style.flex = `${p[k]} 0 0`;
      shares[k].textContent = `class ${k}: ${percent(p[k])}`;
    });
  };
  const nodes = [
    html("div", { class: "columns" },
      picture,
      html("div", { class: "centred" },
        legend(rows),
        html("p", {}, html("small", {}, "class probabilities"), bar, html("span", { class: "split" }, ...shares)),
        html("div", { class: "controls" }, ...sliders))),
    latent,
  ];
  return { nodes, draw, summary };
});

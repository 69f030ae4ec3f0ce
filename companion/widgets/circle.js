// The circle g(z) = (cos 2πz, sin 2πz), cut by a line: the picture of companion/circle.py.

// The part of the circle in class 1 is an arc: its centre and half-width, in turns.
export function arc(angle, offset) {
  return { centre: angle / 360, halfWidth: Math.acos(clamp(offset, -1, 1)) / (2 * Math.PI) };
}

export function classProbabilities(angle, offset) {
  const { centre, halfWidth } = arc(angle, offset);
  let inside = 0;
  for (let turn = -40; turn <= 40; turn++) {
    const middle = Math.abs(turn + centre);
    inside += upperTail(middle - halfWidth) - upperTail(middle + halfWidth);
  }
  return [1 - inside, inside];
}

// The three radii of g(z), the boundary point nearest to z, and the class of g(z).
export function radii(angle, offset, z) {
  const { centre, halfWidth } = arc(angle, offset);
  const turns = z - centre;
  const fromCentre = turns - Math.round(turns);
  const side = fromCentre < 0 ? -1 : 1;
  const single = halfWidth === 0 || halfWidth === 0.5;
  const latent = single ? Infinity : Math.abs(Math.abs(fromCentre) - halfWidth);
  const across = Math.cos(2 * Math.PI * z - (angle * Math.PI) / 180);
  return {
    latent,
    inDistribution: single ? Infinity : 2 * Math.sin(Math.PI * Math.min(latent, 0.5)),
    unconstrained: Math.abs(across - offset),
    boundary: single ? null : z + side * halfWidth - fromCentre,
    label: across > offset ? 1 : 0,
  };
}

const R = 112; // pixels a unit of the plane
const MIDDLE = 170;
const PLANE = 340;

function planePicture({ angle, offset, z }) {
  const found = radii(angle, offset, z);
  const { centre, halfWidth } = arc(angle, offset);
  const at = (x, y) => [MIDDLE + R * x, MIDDLE - R * y];
  const on = (turn, radius = 1) => at(radius * Math.cos(2 * Math.PI * turn), radius * Math.sin(2 * Math.PI * turn));
  const path = (...points) => points.map((p, k) => `${k ? "L" : "M"}${p[0]} ${p[1]}`).join("");
  const sweep = (from, to, radius = 1) =>
    `M${on(from, radius)}A${R * radius} ${R * radius} 0 ${Math.abs(to - from) > 0.5 ? 1 : 0} ${to > from ? 0 : 1} ${on(to, radius)}`;
  const n = [Math.cos(2 * Math.PI * centre), Math.sin(2 * Math.PI * centre)];
  const along = (s, across) => at(s * n[0] - across * n[1], s * n[1] + across * n[0]);
  const x = on(z);
  const colour = [COLOURS.class0, COLOURS.class1];
  const foot = (() => {
    const across = n[0] * Math.cos(2 * Math.PI * z) + n[1] * Math.sin(2 * Math.PI * z) - offset;
    return at(Math.cos(2 * Math.PI * z) - across * n[0], Math.sin(2 * Math.PI * z) - across * n[1]);
  })();
  const stroke = (d, name, width = 4, more = {}) =>
    svg("path", { d, fill: "none", stroke: name, "stroke-width": width, "stroke-linecap": "round", ...more });
  const label = (p, q, symbol, index, away) => {
    const length = Math.hypot(q[0] - p[0], q[1] - p[1]);
    if (length < 34) return [];
    const shift = [(-(q[1] - p[1]) / length) * 15 * away, ((q[0] - p[0]) / length) * 15 * away];
    return [named((p[0] + q[0]) / 2 + shift[0], (p[1] + q[1]) / 2 + shift[1], symbol, index)];
  };
  const parts = [
    svg("rect", { width: PLANE, height: PLANE, fill: colour[0], opacity: 0.13 }),
    svg("path", { d: path(along(offset, -9), along(offset, 9), along(9, 9), along(9, -9)) + "Z", fill: "var(--paper)" }),
    svg("path", { d: path(along(offset, -9), along(offset, 9), along(9, 9), along(9, -9)) + "Z", fill: colour[1], opacity: 0.16 }),
    svg("circle", { cx: MIDDLE, cy: MIDDLE, r: R, fill: "none", stroke: colour[halfWidth === 0.5 ? 1 : 0], "stroke-width": 6 }),
  ];
  if (found.boundary !== null) parts.push(stroke(sweep(centre - halfWidth, centre + halfWidth), colour[1], 6, { "stroke-linecap": "butt" }));
  const side = (angle, radius, words) => {
    const p = on(angle, radius);
    return svg("text", { x: p[0], y: p[1] + 4, "text-anchor": "middle", class: "quiet" }, words);
  };
  parts.push(side(centre + 0.5, 1.25, "class 0"), side(centre + 0.075, 1.25, "class 1"));
  // The dividing line, its handle, and the handle that turns it.
  const grip = (p, name, title, r = 8) => [
    svg("circle", { cx: p[0], cy: p[1], r, fill: "var(--paper)", stroke: "var(--ink)", "stroke-width": 2 }),
    svg("circle", { cx: p[0], cy: p[1], r: 18, fill: "transparent", "data-grip": name }, svg("title", {}, title)),
  ];
  const line = path(along(offset, -9), along(offset, 9));
  const tip = along(1.36, 0);
  parts.push(
    stroke(line, "var(--ink)", 2),
    stroke(line, "transparent", 28, { "data-grip": "offset" }),
    stroke(path(along(offset, 0), tip), "var(--ink)", 1.5, { "stroke-dasharray": "2 5" }),
    ...grip(along(offset, 0), "offset", "drag: move the line"),
    ...grip(tip, "angle", "drag: turn the line"),
  );
  if (found.boundary !== null) {
    const end = on(found.boundary);
    // Names stand outside the triangle of x, foot and end; that of r_in inside, where there is room.
    const cross = (end[0] - x[0]) * (foot[1] - x[1]) - (end[1] - x[1]) * (foot[0] - x[0]);
    const turn = cross < 0 ? -1 : 1;
    const roomy = Math.abs(cross) / Math.hypot(end[0] - x[0], end[1] - x[1]) > 42;
    parts.push(
      stroke(sweep(z, found.boundary, 1.13), COLOURS.latent, 4),
      stroke(path(x, end), COLOURS.inDistribution, 4),
      stroke(path(x, foot), COLOURS.unconstrained, 4),
      svg("circle", { cx: end[0], cy: end[1], r: 5, fill: "var(--paper)", stroke: "var(--ink)", "stroke-width": 2 }),
      ...label(x, end, "r", "in", roomy ? turn : -turn),
      ...label(x, foot, "r", "unc", turn * 1.25),
    );
    const middle = on((z + found.boundary) / 2, 1.27);
    if (found.latent > 0.09) parts.push(named(...middle, "r", "Z"));
  } else parts.push(stroke(path(x, foot), COLOURS.unconstrained, 4), ...label(x, foot, "r", "unc", 1.2));
  parts.push(
    ...dot(x, colour[found.label], "x"),
    svg("circle", { cx: x[0], cy: x[1], r: 20, fill: "transparent", "data-grip": "z" }, svg("title", {}, "drag: move the point")),
  );
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
  const area = (from, to) => {
    const steps = Math.max(2, Math.ceil((to - from) * 24));
    const points = Array.from({ length: steps + 1 }, (_, k) => from + ((to - from) * k) / steps);
    return `M${px(from)} ${BASE}` + points.map((v) => `L${px(v)} ${py(v)}`).join("") + `L${px(to)} ${BASE}Z`;
  };
  const stripes = svg("g", { opacity: 0.8 }, svg("path", { d: area(-SPAN, SPAN), fill: COLOURS.class0 }));
  for (let turn = -4; turn <= 4; turn++) {
    const [a, b] = [Math.max(turn + centre - halfWidth, -SPAN), Math.min(turn + centre + halfWidth, SPAN)];
    if (a < b) stripes.append(svg("path", { d: area(a, b), fill: COLOURS.class1 }));
  }
  const parts = [stripes];
  parts.push(svg("path", { d: `M0 ${BASE}H${width}`, stroke: "var(--muted)", "stroke-width": 1 }));
  for (let tick = -2; tick <= 2; tick++)
    parts.push(
      svg("path", { d: `M${px(tick)} ${BASE}v5`, stroke: "var(--muted)" }),
      svg("text", { x: px(tick), y: HEIGHT - 4, "text-anchor": "middle", class: "quiet" }, String(tick).replace("-", "−")),
    );
  parts.push(svg("text", { x: 4, y: 16, class: "quiet" }, "z ∼ N(0, 1)"));
  if (found.boundary !== null) {
    const [a, b] = [px(z), px(found.boundary)];
    parts.push(
      svg("path", { d: `M${a} ${BASE}H${b}`, stroke: "var(--paper)", "stroke-width": 9 }),
      svg("path", { d: `M${a} ${BASE}H${b}`, stroke: COLOURS.latent, "stroke-width": 5 }),
      svg("path", { d: `M${b} ${BASE - 12}V${BASE + 8}`, stroke: "var(--ink)", "stroke-width": 2 }),
    );
    if (Math.abs(a - b) > 24) parts.push(named((a + b) / 2, BASE - 14, "r", "Z"));
  }
  parts.push(
    svg("path", { d: `M${px(z)} ${BASE - 6}V${BASE + 20}`, stroke: "var(--ink)", "stroke-width": 2 }),
    ...dot([px(z), BASE + 20], [COLOURS.class0, COLOURS.class1][found.label], "z"),
    svg("rect", { x: px(z) - 20, y: BASE - 20, width: 40, height: 60, fill: "transparent", "data-grip": "z" }, svg("title", {}, "drag: move z")),
  );
  return parts;
}

// The point itself, with its name inside.
const dot = ([x, y], colour, name) => [
  svg("circle", { cx: x, cy: y, r: 11, fill: colour, stroke: "var(--paper)", "stroke-width": 2.5 }),
  svg("text", { x, y: y + 4, "text-anchor": "middle", class: "inside symbol" }, name),
];

// A symbol with an index, such as r_in, as SVG text.
function named(x, y, symbol, index) {
  return svg("text", { x, y: y + 4, "text-anchor": "middle", class: "halo" },
    svg("tspan", { class: "symbol" }, symbol), svg("tspan", { dy: 4, "font-size": 11 }, index));
}

const fixed = (value, digits) => value.toFixed(digits).replace("-", "−");
const radius = (value) => (value === Infinity ? "∞" : fixed(value, 3));

function render({ model, el }) {
  const state = () => ({ angle: model.get("angle"), offset: model.get("offset"), z: model.get("z") });
  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const plane = svg("svg", { viewBox: `0 0 ${PLANE} ${PLANE}`, role: "img", "aria-label": "The circle, the line that divides it, and the three radii of the point x" });
  const latent = svg("svg", { role: "img", "aria-label": "The latent line: a Gaussian density coloured by class, and the point z" });
  const row = (colour, symbol, index, words) => {
    const value = html("dd");
    const dt = html("dt", {}, html("span", { class: "swatch", style: `color: ${colour}` }),
      html("span", {}, html("i", {}, symbol), html("sub", {}, index), " ", html("small", {}, words)));
    return { node: html("div", {}, dt, value), value };
  };
  const rows = {
    unconstrained: row(COLOURS.unconstrained, "r", "unc", "straight to the line"),
    inDistribution: row(COLOURS.inDistribution, "r", "in", "chord to the boundary"),
    latent: row(COLOURS.latent, "r", "Z", "in latent space"),
  };
  const bar = html("div", { class: "bar", "aria-hidden": "true" }, ...[0, 1].map((k) => html("span", { style: `background: ${COLOURS["class" + k]}` })));
  const shares = [0, 1].map(() => html("span"));
  const sliders = [
    slider({ name: "angle", label: "angle of the line", min: -180, max: 180, read: () => state().angle, write: (v) => set("angle", v), text: (v) => `${show(v)}°` }),
    slider({ name: "offset", label: "offset of the line", min: -1, max: 1, step: 0.01, read: () => state().offset, write: (v) => set("offset", v), text: (v) => fixed(v, 2) }),
    slider({ name: "z", label: "latent point <i>z</i>", min: -2.5, max: 2.5, step: 0.01, read: () => state().z, write: (v) => set("z", v), text: (v) => fixed(v, 2) }),
  ];
  const status = html("p", { role: "status", "aria-live": "polite" });
  const box = card(el,
    html("div", { class: "columns" },
      plane,
      html("div", { class: "centred" },
        html("dl", {}, rows.unconstrained.node, rows.inDistribution.node, rows.latent.node),
        html("p", {}, html("small", {}, "class probabilities"), bar, html("span", { class: "split" }, ...shares)),
        html("div", { class: "controls" }, ...sliders.map((s) => s.node)))),
    latent, status);

  drag(plane, (grip, px, py) => {
    const [x, y] = [(px - MIDDLE) / R, (MIDDLE - py) / R];
    const { angle, z } = state();
    const turn = Math.atan2(y, x) / (2 * Math.PI);
    if (grip === "angle") set("angle", Math.round(360 * turn));
    if (grip === "offset") {
      const normal = (angle * Math.PI) / 180;
      set("offset", clamp(round(x * Math.cos(normal) + y * Math.sin(normal), 0.01), -1, 1));
    }
    if (grip === "z") set("z", clamp(round(turn + Math.round(z - turn), 0.005), -2.5, 2.5));
  });
  drag(latent, (grip, px) => set("z", clamp(round((px / latent.viewBox.baseVal.width) * 2 * SPAN - SPAN, 0.005), -2.5, 2.5)));

  const summary = () => {
    const { angle, offset, z } = state();
    const r = radii(angle, offset, z);
    const fraction = percent(classProbabilities(angle, offset)[r.label]);
    if (r.boundary === null) return `The line does not cut the circle: every point is in class ${r.label}, and no point of the circle is adversarial.`;
    return `x is in class ${r.label} (${fraction} of the data). The nearest point of the other class is ${radius(r.unconstrained)} away in the plane, ` +
      `${radius(r.inDistribution)} away on the circle; in latent space z must move by ${radius(r.latent)}.`;
  };
  const draw = () => {
    const now = state();
    const width = Math.max(240, Math.round(box.clientWidth - 24));
    const r = radii(now.angle, now.offset, now.z);
    const p = classProbabilities(now.angle, now.offset);
    plane.replaceChildren(...planePicture(now));
    latent.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    latent.replaceChildren(...latentPicture(now, width));
    for (const [name, { value }] of Object.entries(rows)) value.textContent = radius(r[name]);
    [0, 1].forEach((k) => {
      bar.children[k].style.flex = `${p[k]} 0 0`;
      shares[k].textContent = `class ${k}: ${percent(p[k])}`;
    });
    for (const s of sliders) s.update();
  };
  return live({ model, names: ["angle", "offset", "z"], box, draw, summary, status });
}

export default { render };

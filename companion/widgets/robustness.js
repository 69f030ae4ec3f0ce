// A wavy wall across a spiral of data: the three radii of the point x, and the searches that look for them.
import { COLOURS, area, canvas, clamp, dash, dot, drag, fixed, frame, handle, html, legend, line, named, path, round, row, spot, svg, swatch, target, widget, words } from "./view.js";
import { plane } from "./plane.js";
import { distance, image, jacobian, margin, radii, search, wallAt } from "./robustness_math.js";

const SIZE = 340;
const REACH = 3.2; // the latents that are drawn
const RING = -1.2; // the height of the wall's handle
const { at, from } = plane(SIZE, 112);
const CLASSES = [COLOURS.class0, COLOURS.class1];
const TONES = { r_unc: COLOURS.unconstrained, r_in: COLOURS.inDistribution, r_Z: COLOURS.latent };
const ROUND = { "stroke-linecap": "round", "stroke-linejoin": "round" };
const LATENTS = Array.from({ length: 641 }, (_, k) => (k - 320) / 100);
const HEIGHTS = Array.from({ length: 125 }, (_, k) => (k - 62) / 40);

// What is drawn from several times, computed once.
let known = {};
function truth(now) {
  const key = [now.z, now.wave, now.shift, now.search].join();
  if (known.key !== key) known = { key, ...radii(now.z, now), x: image(now.z), trace: search(now.search, now.z, now, 8) };
  return known;
}
const reachedBy = ({ trace }, step) => Math.min(Infinity, ...trace.slice(0, step + 1).map((one) => one.radius));

// The stretches of the latents of one class, as [first, last].
function stretches(label, now) {
  const found = [];
  let before = false;
  for (const p of LATENTS) {
    const here = (margin(image(p), now) > 0 ? 1 : 0) === label;
    if (here && before) found[found.length - 1].push(p);
    else if (here) found.push([p]);
    before = here;
  }
  return found;
}

// How the last step was found: the wall is linearised (dashed), and for the steps along the data the spiral as well (dotted).
function linearised({ trace }, { search: kind, step }) {
  const { base, height, normal, tangent } = trace[step];
  if (!base) return [];
  const through = (p, [a, b], colour, dashes) =>
    line(path([at([p[0] - 9 * a, p[1] - 9 * b]), at([p[0] + 9 * a, p[1] + 9 * b])]), colour, 2, { "stroke-dasharray": dashes, ...ROUND });
  const foot = base.map((v, k) => v - (height * normal[k]) / (normal[0] ** 2 + normal[1] ** 2));
  const parts = [through(foot, [-normal[1], normal[0]], "var(--ink)", "8 6")];
  if (kind === "r_unc") parts.push(line(path([at(trace[0].at), at(trace[step].at)]), TONES[kind], 2));
  if (tangent) parts.push(through(base, tangent, TONES[kind], "1 6"));
  return parts;
}

// Where the search has been: rings while the label is still the old one, then discs.
const visited = ({ trace }, { search: kind, step }, place) =>
  trace.slice(0, step + 1).flatMap((one, k) => {
    if (k === 0 && one.radius === Infinity) return []; // that is x
    const last = k === step;
    return spot(place(one), last ? 6.5 : 4, Number.isFinite(one.radius) ? TONES[kind] : "var(--paper)", last ? "var(--ink)" : TONES[kind]);
  });

function planePicture(now) {
  const found = truth(now);
  const { x, label, latent, inDistribution, unconstrained } = found;
  const wall = HEIGHTS.map((y) => at([wallAt(y, now), y]));
  const right = `${path(wall)}L${SIZE} -9L${SIZE} ${SIZE + 9}Z`;
  const spiral = (pieces) => pieces.map((piece) => path(piece.map((p) => at(image(p))))).join("");
  const parts = [
    svg("rect", { width: SIZE, height: SIZE, fill: CLASSES[0], opacity: 0.13 }), area(right, "var(--paper)"), area(right, CLASSES[1], 0.16),
    line(path(wall), "var(--ink)", 2),
    line(spiral([LATENTS]), CLASSES[0], 5, ROUND), line(spiral(stretches(1, now)), CLASSES[1], 5, ROUND),
    svg("circle", { cx: at(x)[0], cy: at(x)[1], r: 112 * unconstrained.radius, fill: "none", stroke: COLOURS.unconstrained, "stroke-width": 1.5, "stroke-dasharray": "3 4" }),
  ];
  const way = Array.from({ length: 101 }, (_, k) => now.z + ((latent.p - now.z) * k) / 100);
  const inside = image(inDistribution.p);
  const ring = [wallAt(RING, now), RING];
  // The names of two lines from x stand on their outer sides.
  const beside = (p, other, index) => {
    const [a, b, c] = [at(x), at(p), at(other)];
    const side = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) > 0 ? -16 : 16;
    const length = Math.hypot(b[0] - a[0], b[1] - a[1]);
    return length < 40 ? [] : [named([(a[0] + b[0]) / 2 - ((b[1] - a[1]) / length) * side, (a[1] + b[1]) / 2 + ((b[0] - a[0]) / length) * side], "r", index)];
  };
  parts.push(
    line(spiral([way]), "var(--paper)", 9), line(spiral([way]), COLOURS.latent, 5, ROUND),
    line(path([at(x), at(inside)]), COLOURS.inDistribution, 4, ROUND), spot(at(inside)),
    line(path([at(x), at(unconstrained.point)]), COLOURS.unconstrained, 4, ROUND),
    ...beside(unconstrained.point, inside, "unc"), ...beside(inside, unconstrained.point, "in"),
    ...linearised(found, now),
    line(path(wall), "transparent", 28, { "data-grip": "shift" }), ...handle(at(ring), "shift", "drag: move the wall"),
    ...dot(at(x), CLASSES[label], "x"), ...visited(found, now, (one) => at(one.at)),
    target(at(x), "z", "drag: move x along the spiral"),
    words([8, 18], "class 0", { "text-anchor": "start", class: "halo" }), words([SIZE - 8, 18], "class 1", { "text-anchor": "end", class: "halo" }),
  );
  return parts;
}

// Over the latents: how far their images are from x. r_in is the lowest point in the other class, r_Z the nearest.
function latentPicture(now, width) {
  const found = truth(now);
  const { x, label, latent, inDistribution, unconstrained } = found;
  const { px, py, x0, x1, y0, y1, parts, curve, value, grip } = frame({
    width, height: 230, edge: { left: 34 },
    x: { low: -REACH, high: REACH, ticks: [-3, -2, -1, 0, 1, 2, 3], text: (v) => fixed(v, 0), label: "latent p; height: how far g(p) is from x" },
    y: { low: 0, high: 2.25, ticks: [0, 0.5, 1, 1.5, 2], text: (v) => String(v) },
  });
  const away = (p) => Math.min(2.25, distance(image(p), x));
  const speed = Math.hypot(...jacobian(now.z));
  const other = stretches(1 - label, now).map((piece) => svg("rect", { x: px(piece[0]), y: y1, width: px(piece[piece.length - 1]) - px(piece[0]), height: y0 - y1, fill: CLASSES[1 - label], opacity: 0.25 }));
  parts.unshift(...other);
  const arms = [-1, 1].map((side) => clamp(now.z + (side * 2.25) / speed, -REACH, REACH)).map((p) => [p, speed * Math.abs(p - now.z)]);
  const shortcut = [px(latent.p), py(distance(image(latent.p), x))];
  const inside = [px(clamp(inDistribution.p, -REACH, REACH)), py(inDistribution.radius)];
  parts.push(
    line(curve([arms[0], [now.z, 0], arms[1]]), "var(--muted)", 2, { "stroke-dasharray": "1 6", ...ROUND }),
    line(`M${x0} ${py(unconstrained.radius)}H${x1}`, COLOURS.unconstrained, 2.5, { "stroke-dasharray": "3 4" }),
    line(curve(LATENTS.map((p) => [p, away(p)])), "var(--ink)", 3, ROUND),
  );
  parts.push(
    line(`M${px(now.z)} ${y0}H${shortcut[0]}`, COLOURS.latent, 6),
    line(`M${shortcut[0]} ${y0}V${shortcut[1]}`, COLOURS.latent, 2, { "stroke-dasharray": "3 4" }), spot(shortcut, 5, COLOURS.latent, "var(--paper)"),
    line(`M${inside[0]} ${y0}V${inside[1]}`, COLOURS.inDistribution, 4), spot(inside, 5, COLOURS.inDistribution, "var(--paper)"),
    ...(now.search === "r_unc" ? [] : visited(found, now, ({ p }) => [px(clamp(p, -REACH, REACH)), py(away(p))])),
    ...dot([px(now.z), y0], CLASSES[label], "z"), grip("z"),
  );
  return { parts, value };
}

function summary(now) {
  const found = truth(now);
  const { latent, inDistribution: inside, unconstrained: free } = found;
  const reached = reachedBy(found, now.step);
  const told = Number.isFinite(reached) ? `${fixed(reached, 3)}` : "no other label";
  return `x is in class ${found.label}. The other class is ${fixed(free.radius, 3)} away in the plane, ${fixed(inside.radius, 3)} away along the data, at the latent ${fixed(inside.p, 2)}. ` +
    `In latent space z must move by ${fixed(latent.radius, 3)}; the image then moves by ${fixed(distance(image(latent.p), found.x), 3)}. At step ${now.step} the search for ${now.search} has found ${told}.`;
}

export default widget(["z", "wave", "shift", "search", "step"], ({ state, set, slider, choice }) => {
  const picture = canvas("A spiral of data across a wavy wall, and the shortest ways from the point x to the other class", SIZE);
  const plot = canvas("The latent line: how far the image of each latent is from x, with the latents of the other class shaded");
  const rows = {
    unconstrained: row(swatch(COLOURS.unconstrained), "<i>r</i><sub>unc</sub> <small>anywhere</small>"),
    inDistribution: row(swatch(COLOURS.inDistribution), "<i>r</i><sub>in</sub> <small>along the data</small>"),
    latent: row(swatch(COLOURS.latent), "<i>r</i><sub>Z</sub> <small>in latent space</small>"),
    shortcut: row(dash({ "stroke-dasharray": "3 4" }, COLOURS.latent), "shortcut <small>image moved by <i>r</i><sub>Z</sub></small>"),
    speed: row(dash({ "stroke-dasharray": "1 6", ...ROUND }, "var(--muted)"), "√(<i>J</i><sup>⊤</sup><i>J</i>) <small>pull-back metric at <i>z</i></small>"),
    found: row(svg("svg", { viewBox: "0 0 26 16", "aria-hidden": "true", class: "mark" }, spot([13, 8], 6)), "found by the search"),
  };
  const two = (v) => fixed(v, 2);
  const sliders = [
    slider({ name: "z", label: "latent point <i>z</i>", min: -2, max: 2, step: 0.01, text: two }),
    slider({ name: "shift", label: "place of the wall", min: 0.5, max: 1.1, step: 0.01, text: two }),
    slider({ name: "wave", label: "height of its waves", min: 0, max: 0.3, step: 0.01, text: two }),
    slider({ name: "step", label: "steps of the search", max: 8, text: String }),
  ];
  const radius = (index) => html("span", {}, html("i", {}, "r"), html("sub", {}, index));
  const kinds = choice({ name: "search", label: "search for", options: { r_unc: radius("unc"), r_in: radius("in"), r_Z: radius("Z") } });
  drag(picture, (grip, px, py) => {
    const [x, y] = from(px, py);
    const now = state();
    if (grip === "shift") set({ shift: clamp(round(x - wallAt(y, { ...now, shift: 0 }), 0.01), 0.5, 1.1) });
    if (grip === "z") {
      // The nearest point of the spiral; a far latent must be much nearer.
      const cost = (p) => distance(image(p), [x, y]) + 0.15 * Math.abs(p - now.z);
      set({ z: Array.from({ length: 401 }, (_, k) => round(k / 100 - 2, 0.01)).reduce((best, p) => (cost(p) < cost(best) ? p : best)) });
    }
  });
  let shown;
  drag(plot, (grip, px) => set({ z: clamp(round(shown.value(px), 0.01), -2, 2) }));
  const draw = (now, width) => {
    const found = truth(now);
    picture.replaceChildren(...planePicture(now));
    shown = latentPicture(now, width);
    plot.setAttribute("viewBox", `0 0 ${width} 230`);
    plot.replaceChildren(...shown.parts);
    for (const name of ["unconstrained", "inDistribution", "latent"]) rows[name].value.textContent = fixed(found[name].radius, 3);
    rows.shortcut.value.textContent = fixed(distance(image(found.latent.p), found.x), 3);
    rows.speed.value.textContent = fixed(Math.hypot(...jacobian(now.z)), 3);
    rows.found.value.textContent = fixed(reachedBy(found, now.step), 3);
  };
  const nodes = [
    html("div", { class: "columns" },
      picture,
      html("div", { class: "centred" },
        legend(rows),
        html("div", { class: "controls" }, kinds), html("div", { class: "controls" }, sliders[3]))),
    html("div", { class: "columns controls" }, ...sliders.slice(0, 3)),
    plot,
  ];
  return { nodes, draw, summary };
});

// Three shapes of partitions of the latent plane: how heavy is the strip of points near another class?
import { COLOURS, area, canvas, clamp, dash, drag, fixed, frame, handle, html, legend, line, path, percent, round, row, show, svg, swatch, widget, words } from "./view.js";
import { bell, clip, plane, square } from "./plane.js";
import { core, floor, law, partition, shares } from "./tightness_math.js";

const SIZE = 340;
const REACH = 2; // how far the middle may be moved
const { at, on, from } = plane(SIZE, 56);
const CELLS = [COLOURS.class0, COLOURS.class1, COLOURS.unconstrained];
const ROUND = { "stroke-linecap": "round" };
const cellsOf = ({ shape, turn, shift_x: x, shift_y: y }) => partition(shape, turn, [x, y]);
const GRID = Array.from({ length: 61 }, (_, k) => k / 30);

function planePicture(now) {
  const cells = cellsOf(now);
  const shift = [now.shift_x, now.shift_y];
  const polygon = (points) => (points.length ? `${path(points.map(at))}Z` : "M0 0");
  const inside = (i, t) => core(cells, i, t).reduce((points, { n, c }) => clip(points, n, c), square(3.1));
  const parts = [area(polygon(square(3.1)), "var(--ink)", 0.85)];
  cells.forEach((_, i) => {
    const shown = polygon(inside(i, now.t));
    parts.push(area(shown, "var(--paper)"), area(shown, CELLS[i], 0.6));
  });
  parts.push(...bell(SIZE, 56));
  cells.forEach((_, i) => parts.push(line(polygon(inside(i, 0)), "var(--ink)", 1)));
  const tip = on(now.turn / 360, 1.5).map((v, k) => v + shift[k]);
  parts.push(
    line(path([at(shift), at(tip)]), "var(--ink)", 1.5, { "stroke-dasharray": "2 5", ...ROUND }),
    ...handle(at(tip), "turn", "drag: turn"),
    ...handle(at(shift), "shift", "drag: move"),
  );
  return parts;
}

function lawPicture(now, width) {
  const { px, py, y0, y1, x1, parts, curve, value, grip } = frame({
    width, height: 240,
    x: { low: 0, high: 2, ticks: [0, 0.5, 1, 1.5, 2], text: show, label: "t, in latent units" },
    y: { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => `${100 * v}%` },
  });
  const cells = cellsOf(now);
  const p = shares(cells);
  const over = (f) => curve(GRID.map((t) => [t, f(t)]));
  const mark = (height, colour) => svg("circle", { cx: px(now.t), cy: py(height), r: 7, fill: colour, stroke: "var(--paper)", "stroke-width": 2 });
  parts.push(
    line(over((t) => floor(p, Math.SQRT2 * t)), "var(--muted)", 2, { "stroke-dasharray": "8 5" }),
    line(over((t) => law(cells, t)), COLOURS.latent, 3),
    line(over((t) => floor(p, t)), "var(--ink)", 3.5),
    line(`M${px(now.t)} ${y0}V${y1}`, "var(--ink)", 1, { "stroke-dasharray": "3 4" }),
    mark(law(cells, now.t), COLOURS.latent), mark(floor(p, now.t), "var(--ink)"),
    ...(width > 480 ? [words([x1 - 8, y0 - 12], "no partition is below the thick curve", { "text-anchor": "end", class: "halo" })] : []),
    grip("t"),
  );
  return { parts, value };
}

const NAMES = { tripod: "tripod", slabs: "three slabs", "half-space": "half-space" };

function summary(now) {
  const cells = cellsOf(now);
  const p = shares(cells);
  const [found, least] = [law(cells, now.t), floor(p, now.t)];
  const ratio = now.t > 0 ? `; the strip weighs ${fixed(found / least, 3)} times that` : "";
  return `Classes of ${p.map((one) => percent(one)).join(", ")}. Within ${show(now.t)} of another class are ${percent(found)} of the latents (${NAMES[now.shape]}). ` +
    `Theorem 1 says at least ${percent(least)}${ratio}.`;
}

export default widget(["shape", "turn", "shift_x", "shift_y", "t"], ({ state, set, slider, choice }) => {
  const picture = canvas("The latent plane in cells; the strip holds the points within t of another class", SIZE);
  const plot = canvas("The share of latents within t of another class, over t, between the bound of Theorem 1 and its value at √2 t");
  const rows = {
    law: row(dash({ "stroke-width": 3 }, COLOURS.latent), "P(<i>r</i><sub>Z</sub> ≤ <i>t</i>) <small>the strip</small>"),
    floor: row(dash({ "stroke-width": 4 }), "bound (4) <small>same shares</small>"),
    ceiling: row(dash({ "stroke-dasharray": "8 5" }, "var(--muted)"), "bound (4) at √2 <i>t</i>"),
    ratio: row(swatch("transparent"), "strip / bound"),
  };
  const bar = html("div", { class: "bar", "aria-hidden": "true" }, ...CELLS.map((colour) => html("span", { style: `background: ${colour}` })));
  const parts = html("span");
  const two = (v) => fixed(v, 2);
  const shape = choice({ name: "shape", label: "shape", options: NAMES });
  const sliders = [
    slider({ name: "t", label: "<i>t</i>, how near is vulnerable", max: 2, step: 0.01, colour: COLOURS.latent, text: two }),
    slider({ name: "turn", label: "turn", min: -180, max: 180, text: (v) => `${show(v)}°` }),
    slider({ name: "shift_x", label: "shift across", min: -REACH, max: REACH, step: 0.01, text: two }),
    slider({ name: "shift_y", label: "shift up", min: -REACH, max: REACH, step: 0.01, text: two }),
  ];
  drag(picture, (grip, px, py) => {
    const [x, y] = from(px, py).map((v) => clamp(v, -3, 3));
    const { shift_x, shift_y } = state();
    if (grip === "turn") set({ turn: Math.round((180 / Math.PI) * Math.atan2(y - shift_y, x - shift_x)) });
    if (grip === "shift") set({ shift_x: clamp(round(x, 0.01), -REACH, REACH), shift_y: clamp(round(y, 0.01), -REACH, REACH) });
  });
  let shown;
  drag(plot, (grip, px) => set({ t: round(shown.value(px), 0.01) }));
  const draw = (now, width) => {
    const cells = cellsOf(now);
    const p = shares(cells);
    picture.replaceChildren(...planePicture(now));
    shown = lawPicture(now, width);
    plot.setAttribute("viewBox", `0 0 ${width} 240`);
    plot.replaceChildren(...shown.parts);
    const [found, least] = [law(cells, now.t), floor(p, now.t)];
    rows.law.value.textContent = percent(found);
    rows.floor.value.textContent = percent(least);
    rows.ceiling.value.textContent = percent(floor(p, Math.SQRT2 * now.t));
    rows.ratio.value.textContent = now.t > 0 ? fixed(found / least, 3) : "–";
    CELLS.forEach((_, k) => { bar.children[k].style.flex = `${p[k] ?? 0} 0 0`; });
    parts.textContent = p.map((one) => percent(one)).join(" · ");
  };
  const nodes = [
    html("div", { class: "columns" },
      picture,
      html("div", { class: "centred" },
        shape,
        legend(rows, { class: "controls" }),
        html("p", {}, html("small", {}, "class probabilities"), bar, parts),
        html("div", { class: "controls" }, sliders[0]))),
    html("div", { class: "columns controls" }, ...sliders.slice(1)),
    plot,
  ];
  return { nodes, draw, summary };
});

// Two of sixteen latents in the hand: the digit, how far it has moved, and how steep the generator is there.
import { COLOURS, canvas, clamp, dash, drag, fixed, frame, html, legend, line, path, round, row, show, spot, svg, swatch, target, widget, words } from "./view.js";
import { along, gap, push, slope, stepped, unit, unpacked } from "./latent_math.js";
import { paint, pixels, tint } from "./pixels.js";
import { DATA } from "./latent_data.js";

const LAYERS = unpacked(DATA.layers);
const REACH = 3;
const GRID = 17; // places of the map of slopes in each direction
const SIZE = 340;
const TALL = SIZE + 28; // so that the square in it is one
const HEIGHT = 250;
const END = DATA.t[DATA.t.length - 1];
const TOP = 5;
const GREEN = COLOURS.inDistribution;

const axes = ({ across, up }) => [across - 1, up - 1];
const startOf = (now) => DATA.starts[now.start - 1];
const at = (now, x, y) => stepped(startOf(now), axes(now), [x, y]);
const image = (z) => push(LAYERS, z).image;
const directions = (now) => axes(now).map((k) => unit(16, k));

// The last answer of a function of a few whole numbers: the map is made anew only when one of them changes.
function kept(make) {
  let [key, value] = [];
  return (now, ...names) => {
    const wanted = names.map((name) => now[name]).join();
    if (wanted !== key) [key, value] = [wanted, make(now)];
    return value;
  };
}

const mapOf = kept((now) => {
  const place = (k) => REACH * ((2 * k) / (GRID - 1) - 1);
  const slopes = Array.from({ length: GRID * GRID }, (_, k) => slope(LAYERS, at(now, place(k % GRID), place(Math.floor(k / GRID))), directions(now)));
  const most = Math.max(...slopes);
  return { most, address: tint(GRID, slopes.map((v) => 0.85 * (v / most)), COLOURS.latent) };
});
const homeOf = kept((now) => ({ image: image(startOf(now)), slope: slope(LAYERS, startOf(now)) }));

function numbers(now) {
  const z = at(now, now.x, now.y);
  const home = homeOf(now, "start");
  const shown = image(z);
  const t = gap(z, startOf(now));
  return {
    home, image: shown, t,
    moved: gap(shown, home.image),
    modulus: along(DATA.t, DATA.moduli[now.start - 1], t),
    slope: slope(LAYERS, z),
    inside: slope(LAYERS, z, directions(now)),
    proved: Math.min(8, DATA.certified * t),
  };
}

function squarePicture(now, { t }) {
  const ticks = [-3, -2, -1, 0, 1, 2, 3];
  const text = (v) => String(v).replace("-", "−");
  const { px, py, x0, x1, y0, y1, parts, grip } = frame({
    width: SIZE, height: TALL, edge: { left: 34, top: 30, right: 10, bottom: 42 },
    x: { low: -REACH, high: REACH, ticks, text, label: `step along latent ${now.across}` },
    y: { low: -REACH, high: REACH, ticks, text },
  });
  const cell = (x1 - x0) / (GRID - 1) / 2;
  const home = [px(0), py(0)];
  const here = [px(now.x), py(now.y)];
  const clip = svg("clipPath", { id: "square" }, svg("rect", { x: x0, y: y1, width: x1 - x0, height: y0 - y1 }));
  const inner = svg("g", { "clip-path": "url(#square)" },
    svg("image", { href: mapOf(now, "start", "across", "up").address, x: x0 - cell, y: y1 - cell, width: x1 - x0 + 2 * cell, height: y0 - y1 + 2 * cell, preserveAspectRatio: "none" }),
    svg("circle", { cx: home[0], cy: home[1], r: ((x1 - x0) / (2 * REACH)) * t, fill: "none", stroke: "var(--ink)", "stroke-dasharray": "4 4" }));
  parts.push(
    words([x0, 14], `step along latent ${now.up}`, { "text-anchor": "start" }),
    svg("defs", {}, clip), inner,
    line(path([home, here]), GREEN, 4), spot(home, 4, "var(--ink)", "var(--paper)"),
    grip("z"), spot(here, 8), target(here, "z", "drag: move z′", 20),
  );
  const value = (low, high, pixel) => clamp(round(REACH * ((2 * (pixel - low)) / (high - low) - 1), 0.05), -REACH, REACH);
  return { parts, step: (x, y) => ({ x: value(x0, x1, x), y: value(y0, y1, y) }) };
}

function wayPicture(now, { t, moved, home }, width) {
  const { px, py, x0, parts, curve } = frame({
    width, height: HEIGHT, edge: { top: 26, left: 30 },
    x: { low: 0, high: END, ticks: [0, 1, 2, 3, 4], text: String, label: "t, length of the step" },
    y: { low: 0, high: TOP, ticks: [0, 1, 2, 3, 4, 5], text: String },
  });
  const last = Math.min(END, TOP / home.slope);
  parts.push(
    words([x0, 13], "how far the image moves", { "text-anchor": "start" }),
    line(curve([[0, 0], [last, home.slope * last]]), "var(--muted)", 2, { "stroke-dasharray": "8 5" }),
    line(curve([[0, 0], ...DATA.t.map((one, k) => [one, DATA.moduli[now.start - 1][k]])]), "var(--ink)", 3, { "stroke-linejoin": "round" }),
  );
  if (t > 0) {
    // On from the start in the direction of z, as far as the square goes.
    const far = Math.min(END / t, REACH / Math.max(Math.abs(now.x), Math.abs(now.y)));
    const way = Array.from({ length: 41 }, (_, k) => (far * k) / 40).map((s) => [s * t, gap(image(at(now, s * now.x, s * now.y)), home.image)]);
    parts.push(line(curve(way.filter(([one]) => one <= END)), GREEN, 3));
  }
  if (t <= END) parts.push(spot([px(t), py(moved)], 7, GREEN, "var(--paper)"));
  return parts;
}

function summary(now) {
  const { t, moved, modulus, slope: here, inside, home } = numbers(now);
  const found = modulus === null ? "" : ` A search among all directions finds an image ${fixed(modulus, 2)} away within that step.`;
  return `A step of ${fixed(now.x, 2)} along latent ${now.across} and ${fixed(now.y, 2)} along latent ${now.up}, ${fixed(t, 2)} long, moves image ${now.start} by ${fixed(moved, 2)}.${found} ` +
    `The slope there is ${fixed(here, 2)}, within the square ${fixed(inside, 2)}; at the start it is ${fixed(home.slope, 2)}.`;
}

export default widget(["start", "across", "up", "x", "y"], ({ set, slider }) => {
  const shown = { start: pixels(8, "the digit at the start"), now: pixels(8, "the digit now") };
  const square = canvas("Two latents: where the generator is steep, the start, and the point z′");
  square.setAttribute("viewBox", `0 0 ${SIZE} ${TALL}`);
  const plot = canvas("How far the image moves over the length of the step: this way, the tangent, and the local modulus");
  const rows = {
    moved: row(swatch(GREEN), "moved <small>‖<i>g</i>(<i>z</i>′) − <i>g</i>(<i>z</i>)‖</small>"),
    modulus: row(swatch("var(--ink)"), "<i>ω<sub>z</sub></i>(<i>t</i>) <small>found by search</small>"),
    proved: row(swatch("transparent"), "proved <small>at most <i>Lt</i>, and 8</small>"),
    home: row(dash({ "stroke-dasharray": "8 5" }, "var(--muted)"), "slope at the start"),
    slope: row(swatch("transparent"), "slope here <small>‖<i>J</i>(<i>z</i>′)‖</small>"),
    inside: row(swatch(COLOURS.latent), "slope in the square <small>colour</small>"),
  };
  const two = (v) => fixed(v, 2);
  const axis = (name, label) => slider({ name, label, min: 1, max: 16, text: String });
  let picture;
  drag(square, (_, x, y) => set(picture.step(x, y)));
  const draw = (now, width) => {
    const found = numbers(now);
    const ink = (levels) => Array.from(levels, (v) => 255 * v);
    paint(shown.start, ink(found.home.image));
    paint(shown.now, ink(found.image));
    picture = squarePicture(now, found);
    square.replaceChildren(...picture.parts);
    plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    plot.replaceChildren(...wayPicture(now, found, width));
    for (const name of ["moved", "slope", "inside"]) rows[name].value.textContent = two(found[name]);
    rows.modulus.value.textContent = found.modulus === null ? "–" : two(found.modulus);
    rows.proved.value.textContent = show(found.proved);
    rows.home.value.textContent = two(found.home.slope);
  };
  const under = (name, text) => html("div", {}, shown[name], html("small", {}, text));
  const nodes = [
    html("div", { class: "columns" },
      square,
      html("div", { class: "centred" },
        html("div", { style: "display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; max-width: 16rem" }, under("start", "at the start, z"), under("now", "now, z′")),
        legend(rows, { class: "controls" }))),
    html("div", { class: "columns controls" },
      html("div", {}, axis("across", "latent across"), slider({ name: "x", label: "step across", min: -REACH, max: REACH, step: 0.05, colour: GREEN, text: two })),
      html("div", {}, axis("up", "latent up"), slider({ name: "y", label: "step up", min: -REACH, max: REACH, step: 0.05, colour: GREEN, text: two }))),
    html("div", { class: "controls" }, slider({ name: "start", label: "start", min: 1, max: DATA.starts.length, text: (v) => `latent ${v} of ${DATA.starts.length}` })),
    html("div", { class: "controls" }, plot),
    html("p", {}, html("small", {}, `The page calculates digits and slopes itself, with the weights rounded to 8 bits: at 1,000 random latents that moves no image by more than ${fixed(DATA.moved_by_rounding, 2)}, and changes no slope by more than ${fixed(100 * DATA.slopes_by_rounding, 0)} %. What is found by search was found beforehand.`)),
  ];
  return { nodes, draw, summary };
});

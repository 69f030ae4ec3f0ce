// The measured matrix under one threat model, its cells to look into: a digit before and after.
import { COLOURS, fixed, html, legend, row, svg, widget, words } from "./view.js";
import { levels } from "./bytes.js";
import { change, framed, ink } from "./digits.js";
import { example, standing, strongest } from "./matrix_math.js";
import { DATA } from "./matrix_data.js";

const { victims, threats, attacks, accuracy, distance, digits, attacked, greys } = DATA;

const TABLE = `
  table { width: 100%; table-layout: fixed; border-collapse: separate; border-spacing: 2px; font-size: .9em; line-height: 1.15; margin-top: .6rem; }
  th { font-weight: 400; text-align: end; padding: 0 .2rem 0 0; vertical-align: middle; overflow-wrap: normal; }
  thead td { width: 5.6rem; }
  thead th { height: 6.2em; padding: 0 0 .2rem; vertical-align: bottom; text-align: center; }
  thead th > span { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); text-align: start; white-space: nowrap; }
  td { padding: 0; text-align: center; }
  td button { all: unset; box-sizing: border-box; display: block; width: 100%; min-height: 28px; line-height: 28px; text-align: center; cursor: pointer; border-radius: 4px; background: var(--share); }
  td button:hover { outline: 2px solid var(--muted); }
  td button[aria-pressed=true] { outline: 3px solid var(--ink); outline-offset: -1px; }
  td button:focus-visible { outline: 3px solid var(--focus); outline-offset: 1px; }
  td.least { font-weight: 650; }
  @media (max-width: 480px) { table { font-size: .78em; border-spacing: 1px 2px; } thead td { width: 4.7rem; } }`;

// Red where nothing is left, blue where all is.
const colourOf = (share) =>
  `color-mix(in srgb, ${share < 0.5 ? COLOURS.class1 : COLOURS.class0} ${Math.round(110 * Math.abs(share - 0.5))}%, var(--paper))`;
const whole = (share) => String(Math.round(100 * share));
const lengthOf = (distance) => (distance === null ? "∞" : fixed(distance, 2));

export default widget(["threat", "victim", "attack", "digit"], ({ state, set, slider, choice }) => {
  const placeOf = ({ victim, threat, attack }) => [victims.indexOf(victim), threats.indexOf(threat), attacks.indexOf(attack)];
  const at = (values, [v, t, a]) => values[v][t][a];

  // The cell under the mouse, which looks into it without choosing it.
  let seen = null;

  // A table of buttons, one stop for the keyboard: the arrow keys go from cell to cell.
  const cells = victims.map((_, v) => attacks.map((_, a) => html("button", { type: "button", "data-v": v, "data-a": a, "data-lm-suppress-shortcuts": "true" })));
  const least = victims.map(() => html("td", { class: "least" }));
  const headed = (name) => html("th", { scope: "col" }, html("span", {}, name));
  const table = html("table", {},
    html("thead", {}, html("tr", {}, html("td"), ...attacks.map(headed), headed("strongest"))),
    html("tbody", {}, ...victims.map((name, v) =>
      html("tr", {}, html("th", { scope: "row" }, name), ...cells[v].map((button) => html("td", {}, button)), least[v]))));
  const cellOf = (event) => event.target.closest("button")?.dataset;
  const choose = ({ v, a }) => set({ victim: victims[v], attack: attacks[a] });
  table.addEventListener("click", (event) => cellOf(event) && choose(cellOf(event)));
  table.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !cellOf(event)) return;
    event.preventDefault();
    seen = null;
    const { v, a } = cellOf(event);
    const next = cells[+v + step[0]]?.[+a + step[1]];
    if (next) { choose(next.dataset); next.focus(); }
  });
  const look = (data) => { seen = data; detail(state()); };
  table.addEventListener("pointerover", (event) => event.pointerType === "mouse" && cellOf(event) && look(cellOf(event)));
  table.addEventListener("pointerleave", () => look(null));

  const picture = svg("svg", { role: "img", viewBox: "0 0 340 150", "aria-label": "An example digit, the change that this attack made, and the result, with the answer of the defended network" });
  const title = html("p", { style: "font-weight: 600; margin: 0" });
  const plain = (label) => row(html("span"), label);
  const rows = {
    share: plain("still read rightly"),
    naive: plain("the same, white box, naive"),
    length: plain("median length of the smallest change"),
    standing: plain(`cells where most digits survive, of ${victims.length * attacks.length}`),
  };
  function detail({ digit, ...now }) {
    const place = placeOf(seen ? { ...now, victim: victims[seen.v], attack: attacks[seen.a] } : now);
    const { label, answer, fooled } = example(DATA, digit, place);
    const [x, image] = [digits[digit], at(attacked[digit], place)].map((text) => levels(text, greys));
    const moved = image.map((v, k) => v - x[k]);
    title.textContent = `${victims[place[0]]}, ${attacks[place[2]]}`;
    picture.replaceChildren(
      ink(x, [4, 4], 108), words([58, 136], `a ${label}`),
      words([128, 62], "+", { "font-size": 18 }), change(moved, [144, 32], 52), words([170, 102], moved.some(Boolean) ? "change" : "no change"), words([212, 62], "=", { "font-size": 18 }),
      ink(image, [228, 4], 108), words([282, 136], `“${answer}”`, { class: "", "font-weight": fooled ? 700 : 400 }),
      ...(fooled ? [framed([228, 4], 108, COLOURS.class1)] : []),
    );
    rows.share.value.textContent = `${whole(at(accuracy, place))} %`;
    rows.naive.value.textContent = `${whole(at(accuracy, [place[0], 0, place[2]]))} %`;
    rows.length.value.textContent = lengthOf(at(distance, place));
  }

  const nodes = [
    html("style", {}, TABLE),
    choice({ name: "threat", label: "what the attacker knows", options: Object.fromEntries(threats.map((name) => [name, name])) }),
    html("div", { role: "group", "aria-label": "Share of digits still read rightly, in per cent" }, table),
    html("div", { class: "columns controls" },
      html("div", {}, title, html("div", { class: "controls" }, picture)),
      html("div", { class: "centred" }, legend(rows),
        html("div", { class: "controls" }, slider({ name: "digit", label: "example", max: digits.length - 1, text: (k) => `${k + 1}, a ${DATA.labels[k]}` })))),
  ];
  const draw = (now) => {
    const [victim, threat, attack] = placeOf(now);
    cells.forEach((line, v) => line.forEach((button, a) => {
      const share = accuracy[v][threat][a];
      const chosen = v === victim && a === attack;
      button.textContent = whole(share);
      button.style.setProperty("--share", colourOf(share));
      button.setAttribute("aria-label", `${victims[v]}, ${attacks[a]}: ${whole(share)} per cent`);
      button.setAttribute("aria-pressed", chosen);
      button.tabIndex = chosen ? 0 : -1;
    }));
    least.forEach((node, v) => { node.textContent = whole(strongest(DATA, v, threat).share); });
    rows.standing.value.textContent = standing(DATA, threat);
    detail(now);
  };
  const summary = (now) => {
    const place = placeOf(now);
    const [share, naive] = [at(accuracy, place), at(accuracy, [place[0], 0, place[2]])].map(whole);
    const { label, answer } = example(DATA, now.digit, place);
    const best = strongest(DATA, place[0], place[1]);
    return `${now.threat[0].toUpperCase()}${now.threat.slice(1)}: ${now.victim} under ${now.attack}, ${share} % still read rightly (naive: ${naive} %); the smallest changes have a median length of ${lengthOf(at(distance, place))}. ` +
      `The example, a ${label}, is read as a ${answer}. The strongest attack on this defence, ${attacks[best.attack]}, leaves ${whole(best.share)} %. ` +
      `In ${standing(DATA, place[1])} of ${victims.length * attacks.length} cells most digits survive.`;
  };
  return { nodes, draw, summary };
});

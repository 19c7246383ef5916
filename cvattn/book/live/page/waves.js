// Waves: the code of a position as hands of a clock, and what a shift does to it.

function code(t, D) {
  return Array.from({ length: D }, (_, i) => {
    const angle = t / 10000 ** ((i - (i % 2)) / D);
    return i % 2 ? Math.cos(angle) : Math.sin(angle);
  });
}
const product = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

function buildWaves(root, data, say, result) {
  const { dim, last } = data, pairs = dim / 2;
  const state = { t: 20, k: 3, on: Array(pairs).fill(true) };
  const omega = (i) => 10000 ** (-2 * i / dim);
  // The hands that count, alone: the dot product of two codes s letters apart.
  const alike = (s) => state.on.reduce((sum, on, i) =>
    sum + (on ? Math.cos(omega(i) * s) : 0), 0);
  const dials = Array.from({ length: pairs }, (_, i) => {
    const face = canvas({ "aria-hidden": true }, (context, w, h, colour) => {
      const middle = w / 2, reach = w / 2 - 4;
      context.strokeStyle = colour("line");
      context.lineWidth = 1.5;
      context.beginPath();
      context.arc(middle, middle, reach, 0, 2 * Math.PI);
      context.stroke();
      // A hand points to (cos, sin): to the right at t = 0, then against the clock.
      const hand = (t, hue, thick) => {
        const angle = omega(i) * t;
        context.strokeStyle = hue;
        context.lineWidth = thick;
        context.lineCap = "round";
        context.beginPath();
        context.moveTo(middle, middle);
        context.lineTo(middle + reach * Math.cos(angle), middle - reach * Math.sin(angle));
        context.stroke();
      };
      const from = -omega(i) * state.t, to = -omega(i) * (state.t + state.k);
      context.fillStyle = colour("softmax");
      context.globalAlpha = 0.3;
      context.beginPath();
      context.moveTo(middle, middle);
      context.arc(middle, middle, reach, from, to, state.k > 0);
      context.fill();
      context.globalAlpha = 1;
      hand(state.t + state.k, colour("softmax"), 3);
      hand(state.t, colour("ink"), 3);
    });
    const turn = el("span", { class: "number" });
    const speed = Number(omega(i).toPrecision(2));
    const press = button("", () => {
      state.on[i] = !state.on[i];
      change({});
    }, { class: "dial", "aria-label": `hand of speed ${speed} counts` });
    press.append(face.node, el("span", { class: "name" }, String(speed)), turn);
    return { face, turn, press, node: el("li", {}, press) };
  });
  const RIGHT = 12, LEFT = 34, BOTTOM = 30, TOP = 10;
  const chart = canvas({ class: "chart", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      const x = (s) => LEFT + (s / last) * (w - LEFT - RIGHT);
      const line = Array.from({ length: 4 * last + 1 }, (_, s) => alike(s / 4 - state.t));
      const high = Math.max(1, state.on.filter((on) => on).length);
      const low = Math.min(0, Math.floor(Math.min(...line)));
      const y = (v) => TOP + ((high - v) / (high - low)) * (h - TOP - BOTTOM);
      context.font = "12px system-ui, sans-serif";
      context.textBaseline = "middle";
      for (const v of new Set([low, 0, high])) {
        context.fillStyle = colour("line");
        context.fillRect(LEFT, Math.round(y(v)), w - LEFT - RIGHT, 1);
        context.fillStyle = colour("muted");
        context.textAlign = "right";
        context.fillText(fixed(v, 0), LEFT - 7, y(v));
      }
      context.textAlign = "center";
      for (let s = 0; s <= last; s += 10) context.fillText(String(s), x(s), h - 18);
      context.fillText("the other position", (LEFT + w - RIGHT) / 2, h - 5);
      context.strokeStyle = colour("softmax");
      context.lineWidth = 3;
      context.lineJoin = "round";
      context.beginPath();
      line.forEach((v, s) => context.lineTo(x(s / 4), y(v)));
      context.stroke();
      for (const [s, hue] of [[state.t, "ink"], [state.t + state.k, "softmax"]]) {
        context.fillStyle = colour(hue);
        context.beginPath();
        context.arc(x(s), y(alike(s - state.t)), 7, 0, 2 * Math.PI);
        context.fill();
      }
    });
  const shown = el("b");

  function render() {
    const here = code(state.t, dim), there = code(state.t + state.k, dim);
    const turns = dials.map((_, i) => omega(i) * state.k);
    dials.forEach(({ face, turn, press }, i) => {
      press.setAttribute("aria-pressed", String(state.on[i]));
      turn.textContent = `${fixed((180 / Math.PI) * turns[i], turns[i] > -0.1 &&
        turns[i] < 0.1 ? 1 : 0)}\u00b0`;
      face.redraw();
    });
    const counted = here.map((v, i) => (state.on[Math.floor(i / 2)] ? v : 0));
    const found = product(counted, there);
    shown.textContent = fixed(found, 3);
    chart.node.setAttribute("aria-label", `The dot product of position ${state.t}'s code ` +
      `with every other, by the hands that count; highest at ${state.t} itself`);
    chart.redraw();
    Object.assign(root.dataset, { t: state.t, k: state.k, here: JSON.stringify(here),
      there: JSON.stringify(there), turns: JSON.stringify(turns),
      on: JSON.stringify(state.on), product: JSON.stringify(found) });
  }
  function change(part) {
    Object.assign(state, part);
    render();
    const n = state.on.filter((on) => on).length;
    say(`Position ${state.t} and position ${state.t + state.k}: dot product ` +
      `${shown.textContent}${n < pairs ? ` by ${n} of ${pairs} hands` : ""}. A shift of ${signed(state.k, 0)} turns the fastest hand by ` +
      `${dials[0].turn.textContent} and the slowest by ` +
      `${dials[pairs - 1].turn.textContent}, wherever it starts.`);
  }
  const from = slider("Position t =", { min: 10, max: last - 10, step: 1, value: 20,
    words: String }, (t) => change({ t }));
  const shift = slider("Shift k =", { min: -10, max: 10, step: 1, value: state.k,
    words: (k) => signed(Number(k), 0) }, (k) => change({ k }));
  change({});
  const nodes = [
    el("div", { class: "controls" }, from, shift,
      el("p", { class: "name" }, "dot product of the two codes ", shown)),
    el("div", {}, el("span", { class: "name" },
      "Hands: below each its speed \u03c9, and the angle \u03c9k between the two"),
    el("ul", { class: "dials" }, ...dials.map((dial) => dial.node))),
    el("div", {}, el("span", { class: "name" },
      "Dot product of the code of t with that of every position"), chart.node),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Pink hands: position t + k; the others: position t. Move t, and the angle " +
      "between the two stays; move k, and it changes. Press a dial to leave it out.",
    keys: "Keyboard: Tab to a slider, then the arrow keys; Tab to a dial, then Space.",
  };
}

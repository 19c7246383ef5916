// Combine: two scores, and the gate of their sum, product and maximum.

const COMBINE = {
  sum: { of: (c, s) => c + s, slopes: () => [1, 1] },
  product: { of: (c, s) => c * s, slopes: (c, s) => [s, c] },
  max: { of: (c, s) => Math.max(c, s),
    slopes: (c, s) => (c === s ? [0.5, 0.5] : [Number(c > s), Number(s > c)]) },
};

// The gate, and its slope along each score.
function gateOf(name, c, s) {
  const M = 1 / (1 + Math.exp(-COMBINE[name].of(c, s)));
  return { M, slopes: COMBINE[name].slopes(c, s).map((slope) => slope * M * (1 - M)) };
}

function buildCombine(root, data, say, result) {
  const { most } = data, STEPS = 40, names = Object.keys(COMBINE);
  const state = { c: -2, s: -1.5 };
  let sliders;

  const panels = names.map((name) => {
    const surface = canvas({ class: "surface", role: "img", "aria-label": "" },
      (context, w, h, colour) => {
        const n = STEPS + 1, at = (i) => -most + (2 * most * i) / STEPS;
        cells(context, w, n, (i) => {
          const { M } = gateOf(name, at(i % n), at(STEPS - Math.floor(i / n)));
          return mix(colour("paper"), colour(M > 0.5 ? "space" : "below"),
            Math.abs(2 * M - 1));
        });
        const x = (v) => ((v + most) / (2 * most)) * w;
        context.fillStyle = colour("line");
        context.fillRect(Math.round(w / 2), 0, 1, h);
        context.fillRect(0, Math.round(h / 2), w, 1);
        context.lineWidth = 5;
        for (const tone of ["paper", "ink"]) {
          context.strokeStyle = colour(tone);
          context.beginPath();
          context.arc(x(state.c), h - x(state.s), 7, 0, 2 * Math.PI);
          context.stroke();
          context.lineWidth = 2.5;
        }
      });
    draggable(surface.node, STEPS, (x, y) => {
      const round = (v) => Math.round((2 * v - 1) * most * 10) / 10;
      put(sliders[0], round(x));
      put(sliders[1], round(1 - y));
    }, tell);
    const gate = el("b"), share = bar(), rest = el("span");
    return { name, surface, gate, share, rest, node: el("div", { class: "panel" },
      el("p", {}, el("b", {}, name)), surface.node,
      el("p", {}, "M = ", gate), share.node, rest) };
  });

  function render() {
    const out = Object.fromEntries(names.map((name) =>
      [name, gateOf(name, state.c, state.s)]));
    for (const { name, surface, gate, share, rest } of panels) {
      const { M, slopes } = out[name];
      gate.textContent = M.toFixed(3);
      share.set(0, M, 0.5);
      rest.textContent = `1 + M = ${(1 + M).toFixed(3)}; slope along Mc ` +
        `${signed(slopes[0], 3)}, along Ms ${signed(slopes[1], 3)}`;
      surface.node.setAttribute("aria-label", `Gates of the ${name} for all pairs of ` +
        `scores; here ${M.toFixed(3)}`);
      surface.redraw();
    }
    Object.assign(root.dataset, { ...state, out: JSON.stringify(out) });
  }
  const SAY = (v) => (v > 0 ? "yes" : v < 0 ? "no" : "nothing");
  function tell() {
    const gates = names.map((name) =>
      `${name} ${gateOf(name, state.c, state.s).M.toFixed(3)}`);
    say(`Mc = ${fixed(state.c, 1)} says ${SAY(state.c)}, Ms = ${fixed(state.s, 1)} says ` +
      `${SAY(state.s)}. Gates: ${gates.join(", ")}.`);
  }
  const put = (node, value) => {
    const input = node.querySelector("input");
    input.value = value;
    input.dispatchEvent(new Event("input"));
  };
  sliders = [["c", "Score of the channel, Mc ="], ["s", "Score of the place, Ms ="]].map(
    ([key, name]) => slider(name, { min: -most, max: most, step: 0.1, value: state[key],
      words: (v) => fixed(v, 1) }, (v) => {
      state[key] = v;
      render();
      tell();
    }));
  const preset = (name, c, s) => button(name, () => {
    put(sliders[0], c);
    put(sliders[1], s);
  });
  render();
  tell();
  const nodes = [
    el("div", { class: "controls" }, ...sliders),
    el("div", { class: "picks" }, preset("Two yeses", 2, 2), preset("Two noes", -2, -2),
      preset("Yes and no", 2, -2), preset("No and nothing", -2, 0)),
    result,
    el("div", { class: "panels" }, ...panels.map((panel) => panel.node)),
  ];
  return { nodes, redraw: render,
    hint: `Each square holds all pairs of scores from ${fixed(-most, 0)} to ${most}: Mc to ` +
      "the right, Ms upwards. Orange: gate above \u00bd; grey: below.",
    keys: "Keyboard: Tab to a slider and use the arrows. Or drag in a square." };
}

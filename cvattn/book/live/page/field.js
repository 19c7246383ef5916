// Field: which pixels one place sees through 3 x 3 convolutions with dilation d.

// Along one axis: in how many ways L layers lead from each of n pixels to `at`. A way
// that leaves the map is lost: there are only zeros out there.
function ways(n, at, L, d) {
  let count = Array.from({ length: n }, (_, i) => Number(i === at));
  for (let layer = 0; layer < L; layer++) {
    count = count.map((_, i) => [-d, 0, d].reduce((sum, step) =>
      sum + (count[i + step] ?? 0), 0));
  }
  return count;
}

// Both axes: the ways multiply.
function field({ size, row, column, L, d }) {
  const down = ways(size, row, L, d), along = ways(size, column, L, d);
  return down.flatMap((r) => along.map((c) => r * c));
}

function buildField(root, data, say, result) {
  const state = { d: 4, L: 2, size: 36, row: 17, column: 17, beside: false };
  let own, other;

  const grid = canvas({ class: "grid", tabindex: 0, role: "application",
    "aria-roledescription": "map",
    "aria-label": "The map: arrows move the place that looks" },
  (context, w, h, colour) => {
    const { size, row, column } = state, most = Math.max(...own);
    cells(context, w, size, (i) => {
      const mine = own[i] && 0.3 + 0.7 * Math.sqrt(own[i] / most);
      if (other && other[i]) {
        return mine ? colour("ink") : mix(colour("paper"), colour("below"), 0.75);
      }
      return mix(colour("quiet"), colour("space"), mine);
    });
    const cell = w / size;
    context.lineWidth = 2;
    context.strokeStyle = colour("ink");
    context.strokeRect(column * cell, row * cell, cell, cell);
    if (document.activeElement !== grid.node) return;
    context.strokeRect(1, 1, w - 2, h - 2);
  });
  const words = { side: el("b"), seen: el("b"), lost: el("b"), shared: el("b"),
    weights: el("b") };
  const line = (name, node) => el("li", {}, el("span", { class: "name" }, name), node);

  function render() {
    const { size, column, L, d } = state;
    own = field(state);
    const next = column + 1 < size ? column + 1 : column - 1;
    other = state.beside ? field({ ...state, column: next }) : null;
    const count = (list) => list.filter(Boolean).length;
    const side = 1 + 2 * L * d, all = (2 * L + 1) ** 2, seen = count(own);
    const shared = other ? count(own.map((ways, i) => ways && other[i])) : 0;
    words.side.textContent = `${side} \u00d7 ${side}`;
    words.seen.textContent = `${seen} of ${side ** 2}, ${(100 * seen / side ** 2).toFixed(0)} %`;
    words.lost.textContent = `${all - seen} of ${all}`;
    words.shared.textContent = other ? `${shared}` : "\u2013";
    words.weights.textContent = `${9 * L}`;
    grid.redraw();
    Object.assign(root.dataset, { size, row: state.row, column, layers: L, d, seen, side,
      beside: state.beside, paths: JSON.stringify(own), lost: all - seen,
      shared: other ? shared : "" });
  }
  function tell() {
    const { row, column, L, d, size } = state, { seen, lost, shared } = root.dataset;
    say(`${L} ${L === 1 ? "layer" : "layers"} with dilation ${d}: row ` +
      `${row + 1}, column ${column + 1} of ${size} \u00d7 ${size} sees ` +
      `${seen} pixels` + (Number(lost) ? `; ${lost} lie beyond the border.` : ".") +
      (state.beside ? ` Its neighbour sees ${shared === "0" ? "none" : shared} of them.`
        : ""));
  }
  function change(part) {
    Object.assign(state, part);
    state.row = clamp(state.row, 0, state.size - 1);
    state.column = clamp(state.column, 0, state.size - 1);
    render();
    tell();
  }
  const neighbour = button("Show a neighbour's field", () => {
    neighbour.setAttribute("aria-pressed", !state.beside);
    change({ beside: !state.beside });
  }, { "aria-pressed": false });

  draggable(grid.node, 2 * state.size, (x, y) => {
    Object.assign(state, { row: Math.floor(y * state.size),
      column: Math.floor(x * state.size) });
    render();
  }, tell);
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
    ArrowDown: [1, 0] };
  grid.node.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    change({ row: state.row + step[0], column: state.column + step[1] });
    event.preventDefault();
  });
  for (const type of ["focus", "blur"]) grid.node.addEventListener(type, grid.redraw);

  render();
  tell();
  const nodes = [
    el("div", { class: "controls" },
      slider("Dilation d =", { min: 1, max: 8, step: 1, value: state.d, words: String },
        (d) => change({ d })),
      slider("Layers L =", { min: 1, max: 4, step: 1, value: state.L, words: String },
        (L) => change({ L }))),
    el("div", { class: "controls" },
      choice("Map", root.id + "-size", data.sizes.map((n) => [n, `${n} \u00d7 ${n}`]),
        state.size, (size) => change({ size, row: Math.floor((size - 1) / 2),
          column: Math.floor((size - 1) / 2) })), neighbour),
    result,
    el("div", { class: "field" }, grid.node,
      el("ul", {}, line("side of the square, 1 + 2Ld", words.side),
        line("pixels seen, of the square", words.seen),
        line("beyond the border, of (2L + 1)\u00b2", words.lost),
        line("shared with the neighbour", words.shared),
        line("weights for each pair of channels", words.weights))),
  ];
  return { nodes, redraw: render,
    hint: "Point at a place. Orange: the pixels that it sees, stronger where more ways lead " +
      "there; grey: its neighbour's; black, or white on a dark page: both.",
    keys: "Keyboard: Tab to a slider or the map, and use the arrows." };
}

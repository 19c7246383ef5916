// Slide: the k x k window of the spatial gate, place by place, over [mean; max].

// The products in the window at one place, channel after channel, zeros outside.
function windowed({ maps, kernel, size, k }, row, column) {
  const half = (k - 1) / 2, P = size * size, out = new Float64Array(2 * k * k);
  for (let n = 0; n < 2; n++) {
    for (let i = 0; i < k; i++) {
      for (let j = 0; j < k; j++) {
        const y = row + i - half, x = column + j - half;
        const inside = y >= 0 && y < size && x >= 0 && x < size;
        const at = (n * k + i) * k + j;
        out[at] = inside ? kernel[at] * maps[n * P + y * size + x] : 0;
      }
    }
  }
  return out;
}
const total = (list) => list.reduce((a, b) => a + b, 0);
const squash = (a) => 1 / (1 + Math.exp(-a));

function buildSlide(root, data, say, result) {
  const [all, pictures, kernel] = [data.maps, data.pictures, data.kernel].map(decode);
  const size = data.size, P = size * size, k = data.k, half = (k - 1) / 2;
  let shown = 0, row = 10, column = 14, given, gates, products, limits;

  const strongest = (list) => list.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const signedTone = (limit) => (value, colour) => mix(colour("paper"),
    colour(value > 0 ? "space" : "below"), Math.min(1, Math.abs(value) / limit) ** 0.8);

  function outline(context, colour, cell, top, left, side) {
    context.lineWidth = 4;
    context.strokeStyle = colour("paper");
    context.strokeRect(left * cell, top * cell, side * cell, side * cell);
    context.lineWidth = 2;
    context.strokeStyle = colour("ink");
    context.strokeRect(left * cell, top * cell, side * cell, side * cell);
  }
  // A whole map to drag the window on; the mean's is the one that takes the keyboard.
  const large = (n, attributes) => canvas({ class: "large", ...attributes },
    (context, w, h, colour) => {
      const tone = signedTone(limits[n]);
      cells(context, w, size, (i) => tone(given.maps[n * P + i], colour));
      outline(context, colour, w / size, row - half, column - half, k);
    });
  const whole = [
    large(0, { tabindex: 0, role: "application", "aria-roledescription": "window to move",
      "aria-label": "Mean over the channels: arrows move the window over both maps" }),
    large(1, { role: "img", "aria-label": "Maximum over the channels, with the window" }),
  ];
  const gateMap = canvas({ class: "large", role: "img",
    "aria-label": "The gate at every place" }, (context, w, h, colour) => {
    const low = Math.min(...gates), high = Math.max(...gates);
    cells(context, w, size, (i) => mix(colour("paper"), colour("space"),
      0.06 + 0.94 * (gates[i] - low) / (high - low || 1)));
    outline(context, colour, w / size, row, column, 1);
  });
  const small = (label, values, limit) => canvas({ class: "small", role: "img",
    "aria-label": label }, (context, w, h, colour) => {
    const tone = signedTone(limit());
    cells(context, w, k, (i) => tone(values()[i], colour));
    context.strokeStyle = colour("line");
    context.strokeRect(0.5, 0.5, w - 1, h - 1);
  });
  const part = (list, n) => list.subarray(n * k * k, (n + 1) * k * k);
  const NAMES = ["mean", "maximum"];
  const strong = strongest(kernel);
  const kernels = NAMES.map((name, n) => small(`Kernel for the ${name}`,
    () => part(kernel, n), () => strong));
  const made = NAMES.map((name, n) => small(`Products with the ${name}`,
    () => part(products, n), () => strongest(products) || 1));
  const sums = NAMES.map(() => el("b")), a = el("b"), gate = el("b"), range = el("span");

  // A slider for the row, or the column, that follows the window wherever it goes.
  function follower(name, get, set) {
    const words = (v) => String(v + 1);
    const node = slider(name, { min: 0, max: size - 1, step: 1, value: get(), words },
      (v) => {
        set(v);
        tell();
      });
    const input = node.querySelector("input"), text = node.querySelector("b");
    return { node, update() {
      input.value = get();
      text.textContent = words(get());
      input.setAttribute("aria-valuetext", text.textContent);
    } };
  }
  const followers = [
    follower("Row of the centre =", () => row, (v) => go(v, column)),
    follower("Column of the centre =", () => column, (v) => go(row, v)),
  ];
  // Go to the place where the gate is smallest or largest.
  const extreme = (text, pick) => button(text, () => {
    const at = gates.indexOf(pick(...gates));
    go(Math.floor(at / size), at % size);
    tell();
  });

  function render() {
    for (const { update } of followers) update();
    products = windowed(given, row, column);
    const by = NAMES.map((_, n) => total(part(products, n)));
    sums.forEach((node, n) => { node.textContent = signed(by[n], 3); });
    a.textContent = signed(by[0] + by[1], 3);
    gate.textContent = squash(by[0] + by[1]).toFixed(4);
    range.textContent = `${Math.min(...gates).toFixed(3)} to ${Math.max(...gates).toFixed(3)}`;
    for (const { redraw } of [...whole, ...kernels, ...made, gateMap]) redraw();
    Object.assign(root.dataset, { picture: shown, row, column,
      products: JSON.stringify(Array.from(products)),
      gate: JSON.stringify(squash(by[0] + by[1])) });
  }
  function tell() {
    const by = NAMES.map((_, n) => total(part(products, n)));
    const sum = by[0] + by[1];
    const out = Math.max(half - row, half - column, row + half - size + 1,
      column + half - size + 1) > 0;
    say(`Row ${row + 1}, column ${column + 1}: mean ${signed(by[0], 3)}, maximum ` +
      `${signed(by[1], 3)}, together ${signed(sum, 3)}, gate ${squash(sum).toFixed(4)}.` +
      (out ? " Part of the window lies beyond the border and reads zeros." : ""));
  }
  function load(picture) {
    shown = picture;
    given = { maps: all.subarray(shown * 2 * P, (shown + 1) * 2 * P), kernel, size, k };
    limits = [0, 1].map((n) => strongest(given.maps.subarray(n * P, (n + 1) * P)));
    gates = Array.from({ length: P }, (_, i) =>
      squash(total(windowed(given, Math.floor(i / size), i % size))));
    root.dataset.gates = JSON.stringify(gates);
    render();
    tell();
  }
  function go(r, c) {
    row = clamp(r, 0, size - 1);
    column = clamp(c, 0, size - 1);
    render();
  }
  for (const { node } of [...whole, gateMap]) {
    draggable(node, 2 * size, (px, py) =>
      go(Math.floor(py * size), Math.floor(px * size)), tell);
  }
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
    ArrowDown: [1, 0] };
  whole[0].node.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    const far = event.shiftKey ? k : 1;
    go(row + far * step[0], column + far * step[1]);
    tell();
    event.preventDefault();
  });
  load(0);
  const lane = (n) => el("div", {},
    el("span", { class: "name" }, `the ${NAMES[n]}`), whole[n].node,
    el("div", { class: "pair" },
      el("div", {}, el("span", { class: "name" }, "kernel"), kernels[n].node),
      el("div", {}, el("span", { class: "name" }, "products"), made[n].node)),
    el("p", { class: "sum" }, "sum of products ", sums[n]));
  const nodes = [
    pictureChoice(root, data.names, pictures, load),
    el("div", { class: "controls" }, ...followers.map((f) => f.node),
      el("div", { class: "picks" }, extreme("Smallest gate", Math.min),
        extreme("Largest gate", Math.max))),
    el("div", { class: "slide" }, lane(0), lane(1),
      el("div", { class: "gate" }, el("div", {},
        el("span", { class: "name" }, "the gate everywhere"), gateMap.node),
      el("div", {}, el("p", { class: "name" }, range),
        el("p", { class: "sum" }, "both sums ", a),
        el("p", { class: "sum" }, "σ, the gate ", gate)))),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Drag the window over a map. Orange is above zero, grey below; a map of " +
      "products has the strongest colour at its own largest product.",
    keys: "Keyboard: Tab to the first map; arrows move the window by one place, with " +
      "Shift by seven.",
  };
}

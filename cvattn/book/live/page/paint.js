// Paint: a mask over the last features of a trained network, and what it then says.

// p = softmax(W mean(m * A) + b).
function masked({ A, mask, weight, bias }) {
  const P = mask.length, C = A.length / P;
  const mean = Array.from({ length: C }, (_, c) => {
    let sum = 0;
    for (let i = 0; i < P; i++) sum += mask[i] * A[c * P + i];
    return sum / P;
  });
  const logits = Array.from(bias, (b, n) =>
    mean.reduce((sum, m, c) => sum + weight[n * C + c] * m, b));
  const e = logits.map((v) => Math.exp(v - Math.max(...logits)));
  const all = e.reduce((a, b) => a + b);
  return e.map((v) => v / all);
}

function buildPaint(root, data, say, result) {
  const [pictures, features, own, weight, bias] = [data.pictures, data.features, data.own,
    data.fc_weight, data.fc_bias].map(decode);
  const size = data.size, P = size * size, side = 28 / size;
  const part = (all, i) => {
    const n = all.length / data.names.length;
    return all.subarray(i * n, (i + 1) * n);
  };
  let shown = 0, mask = new Array(P).fill(1), set = "open", value = 0;
  let cursor = Math.floor(P / 2), stroke, chances, usual;

  const run = (m) => masked({ A: part(features, shown), mask: m, weight, bias });
  const verdict = (p) => `${data.classes[argmax(p)]}, ${p[argmax(p)].toFixed(3)}`;

  const grid = canvas({ class: "grid", tabindex: 0, role: "application",
    "aria-roledescription": "mask painter", "aria-label": "The mask over the picture: " +
      "arrows move the cursor, Space gives a place the brush's value, O opens it" },
  (context, w, h, colour) => {
    const pixels = part(pictures, shown), hex = (v) => v.toString(16).padStart(2, "0");
    cells(context, w, 28, (i) => {
      const place = Math.floor(Math.floor(i / 28) / side) * size +
        Math.floor((i % 28) / side);
      const grey = hex(pixels[i]);
      return mix(`#${grey}${grey}${grey}`, colour("shut"), 0.85 * (1 - mask[place]));
    });
    const cell = w / size;
    context.strokeStyle = colour("line");
    context.globalAlpha = 0.5;
    for (let i = 1; i < size; i++) {
      context.strokeRect(i * cell, -1, 0, h + 2);
      context.strokeRect(-1, i * cell, w + 2, 0);
    }
    context.globalAlpha = 1;
    if (document.activeElement !== grid.node) return;
    const [left, top] = [(cursor % size) * cell, Math.floor(cursor / size) * cell];
    for (const [width, name] of [[5, "paper"], [2.5, "ink"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour(name);
      context.strokeRect(left + 1, top + 1, cell - 2, cell - 2);
    }
  });

  const rows = data.classes.map((name) => {
    const chance = bar(), number = el("span", { class: "number" });
    return { chance, number, node: el("li", {}, el("span", {}, name), chance.node,
      number) };
  });
  const words = el("p", { class: "name" });

  function render() {
    chances = run(mask);
    usual = run(mask.map(() => 1));
    const top = argmax(chances);
    rows.forEach(({ chance, number, node }, n) => {
      chance.set(0, chances[n], usual[n]);
      number.textContent = chances[n].toFixed(3);
      node.classList.toggle("top", n === top);
    });
    for (const [name, node] of Object.entries(presets)) {
      node.setAttribute("aria-pressed", name === set);
    }
    words.textContent = `mask from ${Math.min(...mask).toFixed(3)} to ` +
      `${Math.max(...mask).toFixed(3)}, mean ` +
      `${(mask.reduce((a, b) => a + b) / P).toFixed(3)}`;
    grid.redraw();
    Object.assign(root.dataset, { picture: shown, mask: JSON.stringify(Array.from(mask)),
      probabilities: JSON.stringify(chances) });
  }
  const tell = (what) => say(`${what}: ${verdict(chances)}.` +
    (set === "open" ? "" : ` Open everywhere: ${verdict(usual)}.`));
  function preset(name, what, values) {
    set = name;
    mask = Array.from(values);
    render();
    tell(what);
  }
  // What each place adds to the score of the picture's class, where it is positive.
  function heat() {
    const A = part(features, shown), C = A.length / P, n = data.labels[shown];
    const sums = Array.from({ length: P }, (_, i) => {
      let sum = 0;
      for (let c = 0; c < C; c++) sum += weight[n * C + c] * A[c * P + i];
      return Math.max(0, sum);
    });
    const most = Math.max(...sums) || 1;
    return sums.map((v) => v / most);
  }
  const stretched = (m) => {
    const low = Math.min(...m), high = Math.max(...m);
    return Array.from(m, (v) => (v - low) / (high - low || 1));
  };
  const presets = {
    open: button("All open", () => preset("open", "Open everywhere",
      mask.map(() => 1))),
    shut: button("All shut", () => preset("shut", "Shut everywhere",
      mask.map(() => 0))),
    own: button("CBAM's own", () => preset("own", "CBAM's own mask",
      part(own, shown))),
    stretched: button("CBAM's, stretched", () => preset("stretched",
      "CBAM's mask, stretched to 0 and 1", stretched(part(own, shown)))),
    heat: button("Grad-CAM", () => preset("heat",
      `The heat of ${data.names[shown]}`, heat())),
    inverse: button("Turn over", () => preset("inverse", "One minus the mask",
      mask.map((v) => 1 - v))),
  };
  function paint(i, v) {
    cursor = i;
    mask[i] = v;
    stroke.add(i);
    set = "hand";
    render();
  }
  const done = () => tell(stroke.size === 1 ? `1 place at ${value.toFixed(2)}`
    : `${stroke.size} places at ${value.toFixed(2)}`);
  draggable(grid.node, 2 * size, (px, py, first) => {
    if (first) stroke = new Set();
    paint(Math.floor(py * size) * size + Math.floor(px * size), value);
  }, done);
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
    ArrowDown: [1, 0] };
  grid.node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = STEPS[event.key];
    const amount = { " ": value, o: 1, O: 1 }[event.key];
    if (step) {
      cursor = clamp(Math.floor(cursor / size) + step[0], 0, size - 1) * size +
        clamp((cursor % size) + step[1], 0, size - 1);
      render();
      say(`Row ${Math.floor(cursor / size) + 1}, column ${(cursor % size) + 1}: ` +
        `${mask[cursor].toFixed(2)}.`);
    } else if (amount !== undefined) {
      stroke = new Set();
      paint(cursor, amount);
      tell(`Row ${Math.floor(cursor / size) + 1}, column ${(cursor % size) + 1} at ` +
        amount.toFixed(2));
    } else return;
    event.preventDefault();
  });
  for (const type of ["focus", "blur"]) grid.node.addEventListener(type, grid.redraw);

  function load(picture) {
    shown = picture;
    preset("open", `${data.names[shown]}, open everywhere`, mask.map(() => 1));
  }
  load(0);
  const nodes = [
    pictureChoice(root, data.names, pictures, load),
    el("div", { class: "paint" },
      el("div", {}, el("span", { class: "name" }, "The mask, over the picture"),
        grid.node, words),
      el("div", {}, el("span", { class: "name" },
        "Class probabilities (mark: open everywhere)"),
      el("ul", { class: "classes" }, ...rows.map((row) => row.node)))),
    el("div", { class: "controls" },
      slider("Brush: a place gets", { min: 0, max: 1, step: 0.25, value,
        words: (v) => v.toFixed(2) }, (v) => { value = v; }),
      el("div", { role: "group", "aria-label": "Set the whole mask" },
        el("span", { class: "name" }, "Set the whole mask"),
        el("div", { class: "picks pairs" }, ...Object.values(presets)))),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Paint over the picture: what is covered is shut in the network's last map, " +
      "7 × 7 places. Each of them has seen much more of the picture than it covers.",
    keys: "Keyboard: Tab to the picture; arrows move the cursor, Space gives the " +
      "place the brush's value, O opens it.",
  };
}

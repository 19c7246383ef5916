// Shuffle: move the patches of a picture, and choose what becomes of their positions.

function buildShuffle(root, data, say, result) {
  const vit = new Vit(data), pictures = decode(data.pictures), { side, N, P } = vit;
  const home = Array.from({ length: N }, (_, n) => n);
  const state = { picture: 0, order: home, mode: "stay", held: -1, cursor: 0,
    seed: 1, typing: false };
  let run, first;

  // Exactly k places hold another patch than their own (k = 0 or at least 2).
  function partly(k) {
    const order = home.slice(), chosen = permutation(N, state.seed).slice(0, k);
    chosen.forEach((n, i) => { order[n] = chosen[(i + 1) % k]; });
    return order;
  }

  const pixels = () => pictures.subarray(state.picture * 784, (state.picture + 1) * 784);
  const places = () => (state.mode === "stay" ? home
    : state.mode === "travel" ? state.order : home.map(() => -1));
  const moved = () => state.order.filter((n, i) => n !== i).length;

  const board = canvas({ class: "map", tabindex: 0, role: "application",
    "aria-roledescription": "patches to exchange",
    "aria-label": "The picture in 7 by 7 patches: arrows move the frame, Enter takes a " +
      "patch up and exchanges it" }, (context, w, h, colour) => {
    const values = pixels();
    cells(context, w, 28, (i) => {
      const r = Math.floor(i / 28), c = i % 28;
      const from = state.order[Math.floor(r / P) * side + Math.floor(c / P)];
      const v = values[(Math.floor(from / side) * P + (r % P)) * 28 + (from % side) * P + (c % P)];
      return `rgb(${v}, ${v}, ${v})`;
    });
    context.fillStyle = colour("muted");
    for (let i = 1; i < side; i++) {
      context.fillRect((i * w) / side, 0, 0.5, h);
      context.fillRect(0, (i * h) / side, w, 0.5);
    }
    const cell = w / side;
    const frame = (n, name) => {
      for (const [width, tone] of [[5, "paper"], [2.5, name]]) {
        context.lineWidth = width;
        context.strokeStyle = colour(tone);
        context.strokeRect((n % side) * cell + 1.5, Math.floor(n / side) * cell + 1.5,
          cell - 3, cell - 3);
      }
    };
    if (state.typing) frame(state.cursor, "ink");
    if (state.held >= 0) frame(state.held, "softmax");
  });
  const bars = data.classes.map((name) => {
    const track = bar(), number = el("span", { class: "number" });
    return { track, number, node: el("li", {}, el("span", {}, name), track.node, number) };
  });

  const words = (k) => `${k} of ${N}`;
  const many = slider("Patches out of place:", { min: 0, max: N, step: 1, value: 0, words },
    (k) => change({ order: partly(k === 1 ? (moved() ? 0 : 2) : k), held: -1 }));
  const manyInput = many.querySelector("input");

  function render() {
    manyInput.value = moved();
    manyInput.setAttribute("aria-valuetext", words(moved()));
    many.querySelector("b").textContent = words(moved());
    bars.forEach(({ track, number }, k) => {
      track.set(0, run.probabilities[k], first.probabilities[k]);
      number.textContent = run.probabilities[k].toFixed(3);
    });
    board.redraw();
    Object.assign(root.dataset, { picture: state.picture, order: JSON.stringify(state.order),
      mode: state.mode, held: state.held, logits: JSON.stringify(run.logits),
      probabilities: JSON.stringify(run.probabilities) });
  }
  function tell() {
    const best = argmax(run.probabilities), right = data.labels[state.picture];
    const n = moved();
    say(`${n ? `${n} patches moved` : "Nothing moved"}, positions ` +
      `${{ stay: "stay", travel: "travel along", off: "off" }[state.mode]}: ` +
      `${data.classes[best]} with ${run.probabilities[best].toFixed(3)}` +
      (best === right ? ", right." : `; ${data.classes[right]} has ` +
        `${run.probabilities[right].toFixed(3)}.`));
  }
  function change(part) {
    Object.assign(state, part);
    run = vit.run(pixels(), state.order, places());
    render();
    tell();
  }
  function load(picture) {
    state.picture = picture;
    first = vit.run(pixels(), home, home);
    change({ held: -1 });
  }
  function touch(n) {
    if (state.held < 0 || state.held === n) {
      state.held = state.held === n ? -1 : n;
      render();
      if (state.held >= 0) {
        say(`Patch at row ${Math.floor(n / side) + 1}, column ${(n % side) + 1} taken up: ` +
          "choose the one to exchange it with.");
      } else tell();
      return;
    }
    const order = state.order.slice();
    [order[n], order[state.held]] = [order[state.held], order[n]];
    change({ order, held: -1 });
  }
  board.node.addEventListener("click", (event) => {
    const box = board.node.getBoundingClientRect();
    const at = (x, length) => clamp(Math.floor((x / length) * side), 0, side - 1);
    state.cursor = side * at(event.clientY - box.top, box.height) +
      at(event.clientX - box.left, box.width);
    state.typing = false;
    touch(state.cursor);
  });
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  board.node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = STEPS[event.key];
    state.typing ||= Boolean(step);
    if (step) {
      state.cursor = clamp(Math.floor(state.cursor / side) + step[0], 0, side - 1) * side +
        clamp((state.cursor % side) + step[1], 0, side - 1);
      board.redraw();
      say(`Row ${Math.floor(state.cursor / side) + 1}, column ${(state.cursor % side) + 1}.`);
    } else if (event.key === "Enter" || event.key === " ") touch(state.cursor);
    else if (event.key === "Escape" && state.held >= 0) touch(state.held);
    else return;
    event.preventDefault();
  });
  // The frame of the keyboard is there as long as the keyboard is.
  board.node.addEventListener("focus", () => {
    state.typing = board.node.matches(":focus-visible");
    board.redraw();
  });
  board.node.addEventListener("blur", () => {
    state.typing = false;
    board.redraw();
  });
  state.order = partly(10);
  load(0);
  const nodes = [
    pictureChoice(root, data.names, pictures, load),
    el("div", { class: "controls" },
      choice("Positions", root.id + "-mode", [["stay", "stay"], ["travel", "travel"],
        ["off", "off"]], state.mode, (mode) => change({ mode })),
      el("div", { class: "picks" },
        button("Shuffle all", () => {
          state.seed += 1;
          change({ order: partly(N), held: -1 });
        }),
        button("Put back", () => change({ order: home.slice(), held: -1 }))), many),
    el("div", { class: "shuffle" },
      el("div", {}, el("span", { class: "name" }, "Click two patches to exchange them"),
        board.node),
      el("div", {}, el("span", { class: "name" },
        "Class probabilities (mark: nothing moved, positions stay)"),
      el("ul", {}, ...bars.map((b) => b.node)))),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Put patches out of place; then let the positions travel, or switch them off. The " +
      "network runs in the page.",
    keys: "Keyboard: on the picture, arrows move the frame, Enter takes up a patch and " +
      "exchanges it, Escape puts it down; Tab to the slider and the buttons.",
  };
}

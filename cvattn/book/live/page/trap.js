// Trap: spatial attention without keepdim, step by step, beside the right one.

// What both modules compute of the first B pictures and H rows of x.
function trap({ x, kernel, C, W, most }, B, H) {
  const count = (n, f) => Array.from({ length: n }, (_, i) => f(i));
  const map = (b, c) => count(H * W, (i) => x[((b * C + c) * most) * W + i]);
  const maps = count(B, (b) => count(C, (c) => map(b, c)));
  const over = (f) => maps.map((own) => own[0].map((_, i) => f(own.map((m) => m[i]))));
  const mean = over((v) => v.reduce((a, b) => a + b) / C);
  const top = over((v) => Math.max(...v));
  // The 3 x 3 convolution of two planes with zeros around them, and the sigmoid.
  const gate = (planes) => planes[0].map((_, i) => {
    const h = Math.floor(i / W), w = i % W, rows = planes[0].length / W;
    let sum = 0;
    planes.forEach((plane, n) => {
      for (let dh = -1; dh <= 1; dh++) {
        for (let dw = -1; dw <= 1; dw++) {
          const inside = h + dh >= 0 && h + dh < rows && w + dw >= 0 && w + dw < W;
          if (inside) sum += kernel[9 * n + 3 * dh + dw + 4] * plane[i + dh * W + dw];
        }
      }
    });
    return 1 / (1 + Math.exp(-sum));
  });
  const stacked = mean.map((m, b) => m.concat(top[b]));
  return { maps, mean, top, stacked, wrong: B === 2 ? gate(stacked) : null,
    right: mean.map((m, b) => gate([m, top[b]])) };
}

function buildTrap(root, data, say, result) {
  const { C, W, most } = data, CELL = 13;
  const given = { ...data, x: decode(data.x), kernel: decode(data.kernel) };
  const STEPS = ["x", "mean and max", "cat", "f reads", "gate"];
  let B = 3, H = 4, step = 2, out;

  // One map as a small canvas: `hue(row)` names the colour of each row.
  function tile(values, hue, low, high, label) {
    const rows = values.length / W;
    const node = canvas({ role: "img", "aria-label": label,
      style: `width: ${W * CELL}px; height: ${rows * CELL}px` },
    (context, w, h, colour) => {
      values.forEach((value, i) => {
        const row = Math.floor(i / W);
        context.fillStyle = mix(colour("paper"), colour(hue(row)),
          0.12 + 0.88 * (value - low) / (high - low));
        context.fillRect((i % W) * CELL, row * CELL, CELL - 1, CELL - 1);
      });
    });
    return el("div", { class: "tile" }, node.node, el("small", {}, label));
  }
  const group = (title, ...tiles) => el("div", { class: "group" },
    el("small", {}, title), el("div", { class: "tiles" }, ...tiles));
  const many = (n) => `${n} ${n === 1 ? "picture" : "pictures"}`;
  const shape = (...sizes) => `(${sizes.join(", ")})`;
  const pictures = (f) => out.mean.map((_, b) => group(`picture ${b + 1}`, ...f(b)));
  const plain = (hue) => () => hue;
  const mean = (b) => tile(out.mean[b], plain("space"), -1.5, 1.5, "mean");
  const top = (b) => tile(out.top[b], plain("below"), -1.5, 1.5, "max");
  const both = (b, label) => tile(out.stacked[b], (row) => (row < H ? "space"
    : "below"), -1.5, 1.5, label);
  const error = () => `RuntimeError: Given groups=1, weight of size [1, 2, 3, 3], ` +
    `expected input[1, ${B}, ${2 * H}, ${W}] to have 2 channels, but got ${B} ` +
    "channels instead";

  // For each step: the shape, a sentence and the maps, with the fault and cured.
  const VIEWS = [
    () => {
      const view = [shape(B, C, H, W), `${many(B)} of ${C} channels.`,
        pictures((b) => out.maps[b].map((m, c) => tile(m, plain("ink"), -1.5, 1.5,
          `channel ${c + 1}`)))];
      return [view, view];
    },
    () => [
      [`${shape(B, H, W)} twice`, "The channel axis is gone.",
        pictures((b) => [mean(b), top(b)])],
      [`${shape(B, 1, H, W)} twice`, "The channel axis is kept, 1 long.",
        pictures((b) => [mean(b), top(b)])],
    ],
    () => [
      [shape(B, 2 * H, W), "Axis 1 is now the height: the maxima stand below the " +
        "means.", pictures((b) => [both(b, "one map")])],
      [shape(B, 2, H, W), "Axis 1 is the channel axis: two channels.",
        pictures((b) => [mean(b), top(b)])],
    ],
    () => [
      [shape(1, B, 2 * H, W), `Three axes are read as one picture: f takes the ` +
        `${many(B)} of the batch for channels, and wants 2.`,
      [group("one picture?", ...out.stacked.map((_, b) => both(b, `channel ${b + 1}?`)))]],
      [shape(B, 2, H, W), `${many(B)} of 2 channels, as f wants.`,
        pictures((b) => [mean(b), top(b)])],
    ],
    () => [
      out.wrong
        ? [shape(1, 2 * H, W), "One gate for two pictures, twice as high. No error.",
          [group("one gate", tile(out.wrong, plain("space"), 0, 1, "gate"))]]
        : ["no gate", error(), []],
      [shape(B, 1, H, W), "A gate for each picture.",
        pictures((b) => [tile(out.right[b], plain("space"), 0, 1, "gate")])],
    ],
  ];

  const panel = (title, code) => {
    const size = el("b"), words = el("p"), maps = el("div", { class: "groups" });
    return { size, words, maps, node: el("div", { class: "panel" },
      el("p", { class: "name" }, title, " ", el("code", {}, code)),
      el("p", {}, size), words, maps) };
  };
  const wrong = panel("With the fault:", "x.mean(dim=1), x.amax(dim=1)");
  const right = panel("Cured:", "keepdim=True, in both");
  const buttons = STEPS.map((name, i) => button(`${i + 1}. ${name}`, () => {
    step = i;
    render();
    tell();
  }));

  function render() {
    out = trap(given, B, H);
    const views = VIEWS[step]();
    [wrong, right].forEach((side, i) => {
      const [size, words, maps] = views[i];
      side.size.textContent = size;
      side.words.textContent = words;
      side.maps.replaceChildren(...maps);
    });
    buttons.forEach((node, i) => node.setAttribute("aria-pressed", i === step));
    Object.assign(root.dataset, { batch: B, height: H, step, shape: wrong.size.textContent,
      error: out.wrong ? "" : error(), wrong: JSON.stringify(out.wrong),
      right: JSON.stringify(out.right) });
  }
  // What happens at the chosen step; the end is not told before it is reached.
  const STORY = [
    () => "Both versions get the same x.",
    () => "With the fault the channel axis is dropped; cured, it is kept, 1 long.",
    () => `With the fault the concatenation is ${shape(B, 2 * H, W)}, where f ` +
      `expects ${shape(B, 2, H, W)}.`,
    () => `With the fault f takes the first of three axes for its channels. It counts ` +
      `${B} and wants 2: ${B === 2 ? "not a word" : "it will raise"}.`,
    () => (B === 2 ? `Not an error, not a word: one gate ${shape(1, 2 * H, W)} leaves, ` +
      `where two of ${shape(1, H, W)} should.` : "With the fault f raises."),
  ];
  function tell() {
    say(`Batch of ${B}, maps of ${H} by ${W}. ${STORY[step]()}`);
  }
  const change = (name, value, set) => slider(name, { min: 1, max: most, step: 1, value,
    words: String }, (n) => {
    set(n);
    render();
    tell();
  });
  render();
  tell();
  const nodes = [
    el("div", { class: "controls" }, change("Pictures in the batch, B =", B,
      (n) => { B = n; }), change("Rows of the map, H =", H, (n) => { H = n; })),
    el("div", { class: "picks", role: "group", "aria-label": "Step" }, ...buttons),
    result,
    el("div", { class: "trap" }, wrong.node, right.node),
  ];
  return {
    nodes, redraw: render,
    hint: "Choose a batch and step through it. Orange: from the mean; grey: from the " +
      "maximum.",
    keys: "Keyboard: Tab to a slider and use the arrows; Tab to a step and press Enter.",
  };
}

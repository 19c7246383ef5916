// Upright: a trained transformer's localiser on an object that the reader moves.

const MOTIONS = ["angle", "size", "across", "down"];

// What a map does: its angle in degrees, the size of its window, where its middle is
// read, in pixels.
function motionsOf([a, b, x, c, d, y], size) {
  return { angle: (Math.atan2(c - b, a + d) * 180) / Math.PI,
    size: Math.sqrt(Math.abs(a * d - b * c)),
    across: (x * size) / 2, down: (y * size) / 2 };
}

// The map that reads a picture as turned clockwise, scaled and moved by pixels.
function mapThatDoes({ angle, scale, across, down }, size) {
  const t = (angle * Math.PI) / 180;
  const [c, s] = [Math.cos(t) / scale, Math.sin(t) / scale];
  const [x, y] = [(2 * across) / size, (2 * down) / size];
  return [c, s, -(c * x + s * y), -s, c, s * x - c * y];
}

function inverse([a, b, x, c, d, y]) {
  const det = a * d - b * c;
  const [p, q, r, s] = [d / det, -b / det, -c / det, a / det];
  return [p, q, -(p * x + q * y), r, s, -(r * x + s * y)];
}

// Squares of 2 x 2 averaged, then linear layers with a ReLU between two of them.
function localise(x, size, layers) {
  let h = [];
  for (let row = 0; row < size; row += 2) {
    for (let column = 0; column < size; column += 2) {
      const i = row * size + column;
      h.push((x[i] + x[i + 1] + x[i + size] + x[i + size + 1]) / 4);
    }
  }
  layers.forEach(({ weight, bias }, layer) => {
    const n = h.length, last = layer === layers.length - 1;
    h = Array.from(bias, (b, k) => {
      let sum = b;
      for (let i = 0; i < n; i++) sum += weight[k * n + i] * h[i];
      return last ? sum : Math.max(0, sum);
    });
  });
  return h;
}

function buildUpright(root, data, say, result) {
  const { names, size } = data, pixels = decode(data.pictures), side = 28;
  const numbers = decode(data.numbers);
  let from = 0;
  const take = (n) => numbers.subarray(from, (from += n));
  const layers = data.shapes.map(([rows, columns]) =>
    ({ weight: take(rows * columns), bias: take(rows) }));
  const [mean, std] = take(2);
  const state = { picture: 0, angle: 25, scale: 0.8, across: 3, down: -2 };
  let seen, theta, wanted, V, want, got;

  function render() {
    const U = new Float64Array(size * size), edge = (size - side) / 2;
    for (let i = 0; i < side * side; i++) {
      U[(Math.floor(i / side) + edge) * size + (i % side) + edge] =
        pixels[state.picture * side * side + i];
    }
    const done = mapThatDoes(state, size);
    seen = resample(U, size, done);
    const x = seen.map((v) => (v / 255 - mean) / std);
    theta = localise(x, size, layers);
    wanted = inverse(done);
    V = resample(x, size, theta).map((v) => 255 * (v * std + mean));
    [want, got] = [motionsOf(wanted, size), motionsOf(theta, size)];
    for (const name of MOTIONS) {
      shown[name][0].textContent = WORDS[name](want[name]);
      shown[name][1].textContent = WORDS[name](got[name]);
    }
    given.redraw();
    read.redraw();
    given.node.setAttribute("aria-label", `${names[state.picture]}, moved, with two frames`);
    Object.assign(root.dataset, { ...state, theta: JSON.stringify(theta),
      wanted: JSON.stringify(wanted), seen: JSON.stringify(Array.from(seen)),
      v: JSON.stringify(Array.from(V)), want: JSON.stringify(want),
      got: JSON.stringify(got) });
  }
  const WORDS = { angle: (v) => `${fixed(v, 0)}\u00b0`, size: (v) => fixed(v, 2),
    across: (v) => fixed(v, 1), down: (v) => fixed(v, 1) };
  const TITLES = { angle: "turned clockwise by", size: "times as large",
    across: "pixels to the right", down: "pixels down" };
  const shown = Object.fromEntries(MOTIONS.map((name) => [name, [el("td"), el("td")]]));
  const table = el("table", {}, el("thead", {}, el("tr", {},
    ...["the frame is", "should be", "is"].map((name) =>
      el("th", { scope: "col" }, name)))),
  el("tbody", {}, ...MOTIONS.map((name) => el("tr", {},
    el("th", { scope: "row" }, TITLES[name]), ...shown[name]))));

  // The given picture has a margin, into which frames may reach.
  const given = canvas({ class: "view given", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      const at = (place) => place.map((v) => ((v + data.world) / (2 * data.world)) * w);
      const [left] = at([-1]);
      context.fillStyle = colour("quiet");
      context.fillRect(0, 0, w, h);
      inset(context, left, w / data.world, size, (i) => grey(seen[i]));
      drawFrame(context, frameOf(wanted).map(at), "#7c8793", true);
      drawFrame(context, frameOf(theta).map(at), colour("space"));
    });
  const read = canvas({ class: "view", role: "img",
    "aria-label": "What the transformer reads" },
  (context, w) => cells(context, w, size, (i) => grey(V[i])));

  function tell() {
    say(`To undo it, the frame should be turned by ${WORDS.angle(want.angle)} and ` +
      `${WORDS.size(want.size)} times as large; the transformer turns it by ` +
      `${WORDS.angle(got.angle)} and makes it ${WORDS.size(got.size)} times as large. ` +
      `Its middle: ${WORDS.across(got.across)}, ${WORDS.down(got.down)} pixels, where ` +
      `${WORDS.across(want.across)}, ${WORDS.down(want.down)} would undo the move.`);
  }
  const degrees = (v) => `${fixed(v, 0)}\u00b0`, shift = (v) => `${fixed(v, 1)} pixels`;
  const UNITS = { angle: degrees, scale: (v) => fixed(v, 2), across: shift, down: shift };
  const control = (name, key, min, max, step) =>
    [key, slider(name, { min, max, step, value: state[key], words: UNITS[key] }, (v) => {
      state[key] = v;
      render();
      tell();
    })];
  const sliders = Object.fromEntries([
    control("Turn, clockwise:", "angle", -90, 90, 1),
    control("Size:", "scale", 0.5, 1.5, 0.01),
    control("To the right:", "across", -8, 8, 0.5),
    control("Down:", "down", -8, 8, 0.5)]);
  function put(values) {
    for (const [key, value] of Object.entries(values)) {
      state[key] = value;
      const input = sliders[key].querySelector("input"), text = UNITS[key](value);
      input.value = value;
      input.setAttribute("aria-valuetext", text);
      sliders[key].querySelector("b").textContent = text;
    }
    render();
  }
  const preset = (name, values) => button(name, () => {
    put(values);
    tell();
  });

  // Drag the object: the distance goes to the two shifts.
  let grabbed = null;
  draggable(given.node, 1, (x, y, first) => {
    if (first) grabbed = [x, y, state.across, state.down];
    const half = (v) => clamp(Math.round(2 * v) / 2, -8, 8);
    put({ across: half(grabbed[2] + (x - grabbed[0]) * size * data.world),
      down: half(grabbed[3] + (y - grabbed[1]) * size * data.world) });
  }, tell);

  render();
  tell();
  const nodes = [
    el("div", { class: "controls" }, pictureChoice(root, names, pixels, (i) => {
      state.picture = i;
      render();
      tell();
    })),
    el("div", { class: "controls" }, ...Object.values(sliders)),
    el("div", { class: "picks" },
      preset("As it was", { angle: 0, scale: 1, across: 0, down: 0 }),
      preset("Small, in a corner", { angle: 0, scale: 0.7, across: -4, down: -4 }),
      preset("Turned by 45\u00b0", { angle: 45, scale: 1, across: 0, down: 0 }),
      preset("Never seen", { angle: 90, scale: 0.5, across: 8, down: 8 })),
    result,
    el("div", { class: "upright" },
      el("div", {}, el("p", { class: "name" }, "given; where the transformer looks"),
        given.node),
      el("div", {}, el("p", { class: "name" }, "read: what the network behind it gets"),
        read.node), table),
  ];
  return { nodes, redraw: render,
    hint: "Orange: the transformer's frame, its thick side the top. Dashed: the frame that " +
      "would undo what you did.",
    keys: "Keyboard: Tab to a slider and use the arrows. Or drag the object." };
}

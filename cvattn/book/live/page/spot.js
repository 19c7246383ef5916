// Spot: one bright spot on a real channel, its two descriptors and its gate.

// What the trained channel half makes of channel `channel` once a spot lies on its map:
// the two descriptors, and its gate from the mean alone, the maximum alone, and both.
function spotted({ map, size, spot, means, maxima, channel, W0, W1 }) {
  const x = Array.from(map);
  if (spot) {
    for (let i = spot.row; i < spot.row + spot.side; i++) {
      for (let j = spot.column; j < spot.column + spot.side; j++) {
        x[i * size + j] = spot.value;
      }
    }
  }
  const mean = x.reduce((a, b) => a + b) / x.length, max = Math.max(...x);
  const C = means.length, hidden = W0.length / C;
  // The channel's own row of W1 relu(W0 f), with f changed in this one channel.
  const score = (f, own) => {
    let a = 0;
    for (let d = 0; d < hidden; d++) {
      let h = 0;
      for (let c = 0; c < C; c++) h += W0[d * C + c] * (c === channel ? own : f[c]);
      a += W1[channel * hidden + d] * Math.max(0, h);
    }
    return a;
  };
  const scores = [score(means, mean), score(maxima, max)];
  const gate = (a) => 1 / (1 + Math.exp(-a));
  return { x, mean, max, scores,
    gates: [gate(scores[0]), gate(scores[1]), gate(scores[0] + scores[1])] };
}

function buildSpot(root, data, say, result) {
  const [maps, pictures, means, maxima, W0, W1] = [data.maps, data.pictures, data.mean,
    data.max, data.W0, data.W1].map(decode);
  const size = data.size, P = size * size, C = means.length / data.names.length;
  const LOW = -4, HIGH = 8, MIDDLE = Math.floor(size / 2);
  const part = (all, i, n) => all.subarray(i * n, (i + 1) * n);
  let shown = 0, chosen = 0, spot, now, before;

  const run = (s) => spotted({ size, spot: s, channel: data.channels[chosen], W0, W1,
    map: part(maps, shown * data.channels.length + chosen, P),
    means: part(means, shown, C), maxima: part(maxima, shown, C) });

  const tone = (value, colour) => mix(colour("paper"),
    colour(value > 0 ? "channel" : "below"), Math.min(1, Math.abs(value) / 5) ** 0.8);
  const map = canvas({ class: "map", tabindex: 0, role: "application",
    "aria-roledescription": "spot to move",
    "aria-label": "The channel's map: arrows move the spot, plus and minus change its " +
      "brightness" }, (context, w, h, colour) => {
    cells(context, w, size, (i) => tone(now.x[i], colour));
    context.strokeStyle = colour("line");
    context.strokeRect(0.5, 0.5, w - 1, h - 1);
    if (!spot) return;
    const cell = w / size;
    const box = [spot.column * cell, spot.row * cell, spot.side * cell, spot.side * cell];
    context.lineWidth = 4;
    context.strokeStyle = colour("paper");
    context.strokeRect(...box);
    context.lineWidth = 2;
    context.strokeStyle = colour("ink");
    context.strokeRect(...box);
  });

  const row = (name) => {
    const track = bar(), number = el("span", { class: "number" });
    return { track, number, node: el("li", {}, el("span", {}, name), track.node, number) };
  };
  const described = [row("mean"), row("maximum")];
  const gated = [row("mean alone (SE)"), row("maximum alone"), row("both (CBAM)")];
  const least = el("span", {}, fixed(LOW, 0)), most = el("span", {}, String(HIGH));

  function render() {
    now = run(spot);
    before = run(null);
    const at = (value) => clamp((value - LOW) / (HIGH - LOW), 0, 1);
    [[described[0], now.mean, before.mean], [described[1], now.max, before.max]].forEach(
      ([{ track, number }, value, old]) => {
        track.set(at(0), at(value), at(old));
        number.textContent = fixed(value, 3);
      });
    gated.forEach(({ track, number }, i) => {
      track.set(0, now.gates[i], before.gates[i]);
      number.textContent = now.gates[i].toFixed(3);
    });
    map.redraw();
    Object.assign(root.dataset, { picture: shown, channel: data.channels[chosen],
      spot: JSON.stringify(spot), mean: JSON.stringify(now.mean),
      max: JSON.stringify(now.max), gates: JSON.stringify(now.gates) });
  }
  function tell(what) {
    const move = (a, b) => (Math.abs(a - b) < 5e-4 ? "stays" : `moves by ${signed(a - b, 3)}`);
    say(`${what}: the mean ${move(now.mean, before.mean)}, the maximum ` +
      `${move(now.max, before.max)}; CBAM's gate ${before.gates[2].toFixed(3)} → ` +
      `${now.gates[2].toFixed(3)}, from the mean alone ${before.gates[0].toFixed(3)} → ` +
      `${now.gates[0].toFixed(3)}.`);
  }
  const change = (what) => {
    render();
    tell(what);
  };
  const words = () => (spot ? `A spot of ${spot.side} × ${spot.side} at ` +
    `${fixed(spot.value, 2)}` : "No spot");
  // Put the spot so that it is centred on a pixel, as far as the map allows.
  function put(r, c) {
    spot = { side: wanted.side, value: wanted.value,
      row: clamp(r - Math.floor(wanted.side / 2), 0, size - wanted.side),
      column: clamp(c - Math.floor(wanted.side / 2), 0, size - wanted.side) };
    centre = [r, c];
  }
  const wanted = { side: 1, value: 6 };
  let centre = [MIDDLE, MIDDLE];

  draggable(map.node, 2 * size, (px, py) => {
    put(Math.floor(py * size), Math.floor(px * size));
    render();
  }, () => tell(words()));
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
    ArrowDown: [1, 0] };
  map.node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = STEPS[event.key];
    const more = { "+": 1, "=": 1, "-": -1 }[event.key];
    if (step) {
      put(clamp(centre[0] + step[0], 0, size - 1), clamp(centre[1] + step[1], 0, size - 1));
    } else if (more) {
      bright.value = clamp(wanted.value + 0.25 * more, LOW, HIGH);
      bright.dispatchEvent(new Event("input"));
    } else return;
    change(words());
    event.preventDefault();
  });

  const brightness = slider("Brightness v =", { min: LOW, max: HIGH, step: 0.25,
    value: wanted.value, words: (v) => fixed(v, 2) }, (v) => {
    wanted.value = v;
    put(...centre);
    change(words());
  });
  const bright = brightness.querySelector("input");
  const side = slider("Side of the spot =", { min: 1, max: size, step: 1,
    value: wanted.side, words: (n) => `${n} × ${n} pixels` }, (n) => {
    wanted.side = n;
    put(...centre);
    change(words());
  });
  function load(picture) {
    shown = picture;
    change(`${data.names[shown]}, channel ${data.channels[chosen]}. ${words()}`);
  }
  put(MIDDLE, MIDDLE);
  load(0);
  const nodes = [
    pictureChoice(root, data.names, pictures, load),
    el("div", { class: "controls" },
      choice("Channel", root.id + "-channel", data.channels.map((n, i) => [i, String(n)]),
        0, (i) => {
          chosen = i;
          load(shown);
        }),
      brightness, side,
      el("div", { class: "picks" }, button("Take the spot away", () => {
        spot = null;
        change("No spot");
      }))),
    el("div", { class: "spot" },
      el("div", {}, el("span", { class: "name" }, "The channel's map, 7 × 7"), map.node),
      el("div", { class: "lists" },
        el("div", {}, el("span", { class: "name" },
          "What the two descriptors say (mark: without the spot)"),
        el("ul", {}, ...described.map((d) => d.node)),
        el("div", { class: "ends" }, least, most)),
        el("div", {}, el("span", { class: "name" },
          "The channel's own gate, 0 to 1 (mark: without the spot)"),
        el("ul", {}, ...gated.map((d) => d.node))))),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Drag the spot over the map; change its brightness and its size.",
    keys: "Keyboard: on the map, arrows move the spot, + and − change its brightness; " +
      "Tab to the sliders.",
  };
}

// Weigh: scores by hand, over channels, places or both, on a real feature map.

// The weights over the chosen axis: [C], [P] or [C * P], and the result of applying
// them to u, C channels of P places: u's shape, or what is left when the axis is summed.
function weigh({ u, channel, place, axis, normaliser, applied, tau }) {
  const C = channel.length, P = place.length;
  let scores = axis === "channel" ? Array.from(channel) : Array.from(place);
  if (axis === "both") {
    scores = Array.from({ length: C * P }, (_, i) => channel[Math.floor(i / P)] +
      place[i % P]);
  }
  const a = scores.map((value) => value / tau);
  let weights = a.map((value) => 1 / (1 + Math.exp(-value)));
  if (normaliser === "softmax") {
    const top = Math.max(...a), e = a.map((value) => Math.exp(value - top));
    const total = e.reduce((x, y) => x + y);
    weights = e.map((value) => value / total);
  }
  const at = { channel: (i) => Math.floor(i / P), place: (i) => i % P, both: (i) => i };
  const left = { channel: (i) => i % P, place: (i) => Math.floor(i / P), both: () => 0 };
  const weighed = Array.from(u, (value, i) => value * weights[at[axis](i)]);
  if (applied === "multiply") return { weights, result: weighed };
  const result = new Array({ channel: P, place: C, both: 1 }[axis]).fill(0);
  weighed.forEach((value, i) => { result[left[axis](i)] += value; });
  return { weights, result };
}

function buildWeigh(root, data, say, result) {
  const maps = decode(data.maps), pictures = decode(data.pictures);
  const C = data.channels.length, size = data.size, P = size * size, MOST = 1, STEP = 0.25;
  const state = { axis: "place", normaliser: "sigmoid", applied: "multiply", tau: 0.25 };
  let shown = 0, u, channel, place, chosen = 0, stroke, sign = 1;
  let cursor = Math.floor(size / 2) * (size + 1);
  let out;                // weights and result, as they are shown

  // The rows of tiles ------------------------------------------------------
  const GAP = 5;
  const hues = { channel: "channel", place: "space", both: "ink" };
  const tone = (value, limit, colour) => mix(colour("paper"),
    colour(value > 0 ? "channel" : "below"), Math.min(1, Math.abs(value) / limit) ** 0.8);
  // A row of C tiles; `tile(c)` is its values, or null for an empty tile.
  const strip = (label, tile, paint) => canvas({ class: "strip", role: "img",
    "aria-label": label }, (context, w, h, colour) => {
    const side = Math.floor((w - GAP * (C - 1)) / C);
    for (let c = 0; c < C; c++) {
      const content = tile(c);
      if (!content) continue;
      context.save();
      context.translate(c * (side + GAP), 0);
      cells(context, side, Math.round(content.length ** 0.5),
        (i) => paint(content[i], colour));
      context.strokeStyle = colour("line");
      context.strokeRect(0.5, 0.5, side - 1, side - 1);
      context.restore();
    }
  });
  const part = (list, c) => list.slice(c * P, (c + 1) * P);
  let limit = 1, least = 0, most = 1, strongest = 1;
  const before = strip("Feature map u, six channels", (c) => part(u, c),
    (value, colour) => tone(value, limit, colour));
  const middle = strip("The weights, stretched to the shape of u", (c) => ({
    channel: [out.weights[c]], place: out.weights, both: part(out.weights, c),
  })[state.axis], (value, colour) => mix(colour("paper"), colour(hues[state.axis]),
    value / (state.normaliser === "sigmoid" ? 1 : most)));
  const after = strip("The result", (c) => {
    if (state.applied === "multiply") return part(out.result, c);
    if (state.axis === "place") return [out.result[c]];
    return c === 0 ? out.result : null;
  }, (value, colour) =>
    tone(value, state.applied === "multiply" ? limit : strongest, colour));
  const words = { weights: el("b"), result: el("b") };

  // Scores -----------------------------------------------------------------
  const LINE = 18;
  const bars = canvas({
    class: "bars", tabindex: 0, role: "slider", "aria-orientation": "vertical",
    "aria-label": "Scores of the channels: left and right choose a channel, " +
      "up and down set its score", "aria-valuemin": -MOST, "aria-valuemax": MOST,
  }, (context, w, h, colour) => {
    const width = w / C, zero = (h - LINE) / 2;
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    channel.forEach((score, c) => {
      context.fillStyle = colour("quiet");
      context.fillRect(c * width + 3, 0, width - 6, h - LINE);
      context.fillStyle = colour(score < 0 ? "below" : "channel");
      const tall = (Math.abs(score) / MOST) * zero;
      context.fillRect(c * width + 3, score < 0 ? zero : zero - tall, width - 6, tall);
      context.fillStyle = colour(c === chosen ? "ink" : "muted");
      context.fillText(fixed(score, 2), c * width + width / 2, h - LINE / 2 + 1);
    });
    context.fillStyle = colour("ink");
    context.fillRect(0, Math.round(zero), w, 1);
    if (document.activeElement !== bars.node) return;
    context.strokeStyle = colour("ink");
    context.lineWidth = 2;
    context.strokeRect(chosen * width + 2, 1, width - 4, h - LINE - 2);
  });
  const grid = canvas({
    class: "grid", tabindex: 0, role: "application",
    "aria-roledescription": "score painter",
    "aria-label": "Scores of the places, to paint on: arrows move the cursor, Space " +
      "raises a score by 0.25, X lowers it by 0.25",
  }, (context, w, h, colour) => {
    cells(context, w, size, (i) => mix(colour("paper"),
      colour(place[i] > 0 ? "space" : "below"), Math.abs(place[i]) / MOST));
    context.strokeStyle = colour("line");
    context.strokeRect(0.5, 0.5, w - 1, h - 1);
    if (document.activeElement !== grid.node) return;
    const cell = w / size;
    context.lineWidth = 2;
    context.strokeStyle = colour("ink");
    context.strokeRect((cursor % size) * cell, Math.floor(cursor / size) * cell, cell,
      cell);
  });
  const scoresOf = {
    channel: el("div", {}, el("span", { class: "name" },
      "Scores of the six channels: drag"), bars.node),
    place: el("div", {}, el("span", { class: "name" },
      `Scores of the ${size} \u00d7 ${size} places: paint`), grid.node,
    choice("Brush", root.id + "-brush", [["1", "raise"], ["-1", "lower"]], "1",
      (value) => { sign = Number(value); })),
  };

  const editors = el("div", { class: "editors" });

  function render() {
    out = weigh({ u, channel, place, ...state });
    limit = u.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
    least = Math.min(...out.weights);
    most = Math.max(...out.weights);
    strongest = Math.max(...out.result.map(Math.abs));
    if (editors.dataset.axis !== state.axis) {
      editors.dataset.axis = state.axis;
      editors.replaceChildren(...(state.axis === "both"
        ? Object.values(scoresOf) : [scoresOf[state.axis]]));
    }
    const n = out.weights.length, sum = out.weights.reduce((a, b) => a + b);
    words.weights.textContent = `${n} weights from ${number(least)} to ` +
      `${number(most)}, sum ${sum.toFixed(n > 20 && sum > 2 ? 1 : 3)}`;
    words.result.textContent = `strongest value ${number(strongest)}, of u ` +
      `${number(limit)}`;
    bars.node.setAttribute("aria-valuenow", channel[chosen].toFixed(2));
    bars.node.setAttribute("aria-valuetext",
      `channel ${data.channels[chosen]}: score ${fixed(channel[chosen], 2)}`);
    for (const { redraw } of [before, middle, after, bars, grid]) redraw();
    Object.assign(root.dataset, { ...state, picture: shown,
      channel: JSON.stringify(Array.from(channel)),
      place: JSON.stringify(Array.from(place)),
      weights: JSON.stringify(out.weights), result: JSON.stringify(out.result) });
  }
  // Three digits, however small.
  const number = (value) => (value !== 0 && Math.abs(value) < 0.001
    ? value.toExponential(1).replace("-", "\u2212") : value.toFixed(3));
  const AXES = { channel: "channels", place: "places", both: "channels and places" };
  const LEFT = {
    channel: "one value for each place is left",
    place: "one value for each channel is left", both: "a single value is left",
  };
  const tell = (what) => say(`${what}: ${state.normaliser} over ${AXES[state.axis]}, ` +
    `${words.weights.textContent}. ` + (state.applied === "sum"
      ? `Summed, ${LEFT[state.axis]}.` : `Multiplied, the ${words.result.textContent}.`));
  function change(what, next) {
    Object.assign(state, next);
    render();
    tell(what);
  }
  const set = (list, i, value) => { list[i] = clamp(value, -MOST, MOST); };

  // By pointer -------------------------------------------------------------
  draggable(bars.node, 4 * C, (px, py, first) => {
    const h = bars.node.clientHeight, tall = h - LINE;
    if (first) chosen = Math.floor(px * C);
    set(channel, chosen, MOST * (1 - (2 * py * h) / tall));
    render();
  }, () => tell(`Channel ${data.channels[chosen]} scores ${fixed(channel[chosen], 2)}`));
  draggable(grid.node, 2 * size, (px, py, first) => {
    cursor = Math.floor(py * size) * size + Math.floor(px * size);
    if (first) stroke = new Set();
    if (!stroke.has(cursor)) set(place, cursor, place[cursor] + sign * STEP);
    stroke.add(cursor);
    render();
  }, () => tell(stroke.size === 1 ? "1 place painted" : `${stroke.size} places painted`));

  // By keyboard ------------------------------------------------------------
  const plain = (event) => !(event.ctrlKey || event.altKey || event.metaKey);
  const CHANGES = { ArrowUp: 0.05, ArrowDown: -0.05, PageUp: 0.25, PageDown: -0.25,
    Home: -2 * MOST, End: 2 * MOST };
  bars.node.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!plain(event) || !(step || event.key in CHANGES)) return;
    if (step) chosen = clamp(chosen + step, 0, C - 1);
    else set(channel, chosen, channel[chosen] + CHANGES[event.key]);
    render();
    tell(`Channel ${data.channels[chosen]} scores ${fixed(channel[chosen], 2)}`);
    event.preventDefault();
  });
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
    ArrowDown: [0, 1] };
  const AMOUNTS = { " ": 1, x: -1, X: -1, Backspace: -1 };
  grid.node.addEventListener("keydown", (event) => {
    const step = STEPS[event.key], amount = AMOUNTS[event.key];
    if (!plain(event) || !(step || amount)) return;
    if (step) {
      const column = clamp((cursor % size) + step[0], 0, size - 1);
      const row = clamp(Math.floor(cursor / size) + step[1], 0, size - 1);
      cursor = row * size + column;
    } else set(place, cursor, place[cursor] + amount * STEP);
    render();
    const at = `Row ${Math.floor(cursor / size) + 1}, column ${(cursor % size) + 1}`;
    tell(`${at} scores ${fixed(place[cursor], 2)}`);
    event.preventDefault();
  });
  for (const { node, redraw } of [bars, grid]) {
    node.addEventListener("focus", redraw);
    node.addEventListener("blur", redraw);
  }

  // Presets ----------------------------------------------------------------
  // A channel's mean, or a place's, less the mean of all: what stands out scores high.
  function fromMap() {
    const all = u.reduce((a, b) => a + b) / (C * P);
    const score = (mean) => clamp(mean - all, -MOST, MOST);
    channel = Array.from({ length: C }, (_, c) =>
      score(part(u, c).reduce((a, b) => a + b) / P));
    place = Array.from({ length: P }, (_, p) => {
      let sum = 0;
      for (let c = 0; c < C; c++) sum += u[c * P + p];
      return score(sum / C);
    });
  }
  function load(picture) {
    shown = picture;
    u = Float64Array.from(maps.subarray(picture * C * P, (picture + 1) * C * P));
    fromMap();
    render();
    tell(`${data.names[shown]}, scores from the map itself`);
  }
  load(0);

  const of = (legend, name, options) => choice(legend, `${root.id}-${name}`,
    options.map((option) => [option, option]), state[name],
    (value) => change(legend, { [name]: value }));
  const row = (text, node, after = []) => el("div", {},
    el("span", { class: "name" }, text, ...after), node);
  const nodes = [
    pictureChoice(root, data.names, pictures, load),
    el("div", { class: "controls" },
      of("Axis", "axis", ["channel", "place", "both"]),
      of("Normaliser", "normaliser", ["sigmoid", "softmax"]),
      of("Applied", "applied", ["multiply", "sum"]),
      slider("Temperature \u03c4 =", { min: -4, max: 2, step: 0.5, value: -2,
        words: (e) => String(Number((2 ** e).toPrecision(3))) },
      (e) => change("Temperature", { tau: 2 ** e }))),
    el("div", { class: "weigh" },
      el("div", { class: "scores" }, editors,
        el("div", { class: "picks" },
          button("Scores from the map", () => {
            fromMap();
            change("Scores from the map", {});
          }),
          button("All scores 0", () => {
            channel.fill(0);
            place.fill(0);
            change("All scores 0", {});
          }))),
      el("div", { class: "rows" },
        row(`The map u: channels ${data.channels.join(", ")}`, before.node),
        row("The weights, stretched to u: ", middle.node, [words.weights]),
        row("Result: ", after.node, [words.result]))),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Choose what is weighed and how, and set the scores: for channels by dragging " +
      "bars, for places by painting on the grid, for both by either.",
    keys: "Keyboard: on the bars, left and right choose a channel, up and down set its " +
      "score; on the grid, arrows move the cursor, Space raises, X or Backspace lowers.",
  };
}

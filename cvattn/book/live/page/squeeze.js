// Squeeze: six channels of a trained network's feature map, and z, their means.

function buildSqueeze(root, data, say, result) {
  const maps = decode(data.maps), pictures = decode(data.pictures);
  const [count, size] = [data.channels.length, data.size], places = size * size;
  let shown = 0;          // the picture
  let chosen = 0;         // the channel that is painted on
  let x;                  // count * places values, channel after channel
  let before;             // z of the untouched map
  let limit;              // the value with the strongest colour
  let cursor = Math.floor(size / 2) * (size + 1);
  let tool = "add", d = 1, shuffles = 0, stroke;

  const means = () => data.channels.map((_, c) => {
    let sum = 0;
    for (let i = 0; i < places; i++) sum += x[c * places + i];
    return sum / places;
  });
  const channel = (c = chosen) => `channel ${data.channels[c]}`;
  const apart = (change) => (change === 0 ? "exactly 0"
    : `${change.toExponential(1)}, rounding of the sum`);

  function load(picture) {
    shown = picture;
    x = Float64Array.from(maps.subarray(picture * count * places,
      (picture + 1) * count * places));
    before = means();
    limit = x.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    shuffles = 0;
  }

  // Blue above zero, grey below: as strong as the value is far from zero.
  const tone = (value, colour) => {
    const t = Math.min(1, Math.abs(value) / limit);
    return mix(colour("paper"), colour(value > 0 ? "channel" : "below"), t ** 0.8);
  };
  const map = canvas({
    class: "map", tabindex: 0, role: "application",
    "aria-roledescription": "pixel painter",
    "aria-label": "Feature map to paint on: arrows move the cursor, Space adds d, " +
      "X takes d away, Shift and an arrow moves the pixel",
  }, (context, w, h, colour) => {
    cells(context, w, size, (i) => tone(x[chosen * places + i], colour));
    context.strokeStyle = colour("line");
    context.strokeRect(0.5, 0.5, w - 1, h - 1);
    if (document.activeElement !== map.node) return;
    const cell = w / size;
    const [left, top] = [(cursor % size) * cell, Math.floor(cursor / size) * cell];
    context.lineWidth = 4;
    context.strokeStyle = colour("paper");
    context.strokeRect(left, top, cell, cell);
    context.lineWidth = 2;
    context.strokeStyle = colour("ink");
    context.strokeRect(left, top, cell, cell);
  });
  const scale = canvas({ "aria-hidden": true }, (context, w, h, colour) => {
    for (let i = 0; i < w; i++) {
      context.fillStyle = tone(((2 * i) / (w - 1) - 1) * limit, colour);
      context.fillRect(i, 0, 2, h);
    }
  });
  const least = el("span"), most = el("span"), sum = el("b");
  const heading = el("p", { class: "name" });

  const rows = data.channels.map((number, c) => {
    const small = canvas({ "aria-hidden": true }, (context, w, h, colour) =>
      cells(context, w, size, (i) => tone(x[c * places + i], colour)));
    const mean = bar(), now = el("span", { class: "number" });
    const change = el("span", { class: "number change" });
    const input = el("input", { type: "radio", name: root.id + "-channel",
      value: c, checked: c === 0, onchange: () => {
        chosen = c;
        render();
        say(`You paint on ${channel()}: z = ${fixed(means()[c], 4)}.`);
      } });
    return { small, mean, now, change, node: el("label", {}, input, small.node,
      el("span", {}, channel(c)), mean.node, now, change) };
  });

  function render() {
    const z = means();
    const high = 1.15 * Math.max(...z.concat(before).map(Math.abs));
    const low = Math.min(...z, ...before) < 0 ? -high : 0;
    const at = (value) => (value - low) / (high - low);
    rows.forEach(({ small, mean, now, change }, c) => {
      small.redraw();
      mean.set(at(0), at(z[c]), at(before[c]));
      now.textContent = fixed(z[c], 4);
      const moved = z[c] - before[c];
      change.textContent = Math.abs(moved) < 5e-5 ? "\u00b10" : signed(moved, 4);
    });
    map.redraw();
    scale.redraw();
    sum.textContent = `z = ${rows[chosen].now.textContent}`;
    heading.replaceChildren(`${channel()}: `, sum,
      `, change ${rows[chosen].change.textContent}`);
    least.textContent = fixed(-limit, 1);
    most.textContent = signed(limit, 1);
    root.dataset.z = JSON.stringify(z);
    root.dataset.picture = shown;
  }

  const begin = () => {
    stroke = { z: means()[chosen], changed: new Set(), moved: 0 };
  };
  function add(i, amount) {
    if (stroke.changed.has(i)) return;
    stroke.changed.add(i);
    x[chosen * places + i] += amount;
  }
  function swap(i, j) {
    const base = chosen * places;
    [x[base + i], x[base + j]] = [x[base + j], x[base + i]];
    stroke.moved += 1;
  }
  function finish(amount) {
    const z = means()[chosen], n = stroke.changed.size;
    if (n) {
      say(`${n === 1 ? "1 pixel" : n + " pixels"} of ${channel()} changed by ` +
        `${signed(amount, 2)}: z moves by ${n} \u00d7 ${signed(amount, 2)} / ${places}` +
        ` = ${signed((n * amount) / places, 4)}, from ${fixed(stroke.z, 4)} to ` +
        `${fixed(z, 4)}.`);
    } else if (stroke.moved) {
      const path = stroke.moved === 1 ? "1 place" : `${stroke.moved} places`;
      say(`A pixel of ${channel()} moved ${path}: z was ${fixed(stroke.z, 4)} and ` +
        `is ${fixed(z, 4)}; the difference is ${apart(z - stroke.z)}.`);
    }
  }

  let from;
  draggable(map.node, 2 * size, (px, py, first) => {
    const i = Math.floor(py * size) * size + Math.floor(px * size);
    if (first) begin();
    if (tool === "move") {
      if (!first && i !== from) swap(from, i);
      from = i;
    } else {
      add(i, tool === "add" ? d : -d);
    }
    cursor = i;
    render();
  }, () => finish(tool === "add" ? d : -d));

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
    ArrowDown: [0, 1] };
  const AMOUNTS = { " ": 1, x: -1, X: -1, Backspace: -1 };
  map.node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = STEPS[event.key], amount = AMOUNTS[event.key];
    if (step) {
      const column = clamp((cursor % size) + step[0], 0, size - 1);
      const row = clamp(Math.floor(cursor / size) + step[1], 0, size - 1);
      const to = row * size + column;
      begin();
      if (event.shiftKey && to !== cursor) swap(cursor, to);
      cursor = to;
      render();
      if (stroke.moved) finish();
      else {
        say(`Row ${row + 1}, column ${column + 1}: ` +
          `${fixed(x[chosen * places + cursor], 2)}.`);
      }
    } else if (amount) {
      begin();
      add(cursor, amount * d);
      render();
      finish(amount * d);
    } else return;
    event.preventDefault();
  });
  for (const type of ["focus", "blur"]) map.node.addEventListener(type, map.redraw);

  function shuffle() {
    shuffles += 1;
    const order = permutation(places, shuffles), old = x.slice(), z = means();
    for (let c = 0; c < count; c++) {
      order.forEach((j, i) => { x[c * places + i] = old[c * places + j]; });
    }
    render();
    const change = Math.max(...means().map((value, c) => Math.abs(value - z[c])));
    say(`The ${places} places are shuffled, in every channel alike (permutation ` +
      `${shuffles}). Largest change of any z: ${apart(change)}.`);
  }
  function reset(picture) {
    load(picture);
    render();
    say(`${data.names[shown]}, untouched: z of ${channel()} is ` +
      `${fixed(before[chosen], 4)}, the mean of ${places} pixels.`);
  }

  reset(0);
  const tools = el("div", { class: "controls tools" },
    choice("Brush", root.id + "-brush", [["add", "Brighten"], ["take", "Darken"],
      ["move", "Move"]], "add", (value) => { tool = value; }),
    slider("Brush strength d =", { min: 0.25, max: 4, step: 0.25, value: d,
      words: (value) => value.toFixed(2) }, (value) => { d = value; }),
    el("div", { class: "picks" }, button("Shuffle the pixels", shuffle),
      button("Reset", () => reset(shown))));
  const nodes = [
    pictureChoice(root, data.names, pictures, reset),
    el("div", { class: "squeeze" },
      el("div", {}, heading, map.node,
        el("div", { class: "legend" }, least, scale.node, most)),
      tools, result,
      el("fieldset", { class: "list" },
        el("legend", {}, "Channel to paint on: z and change (mark: untouched)"),
        el("div", { class: "maps" }, ...rows.map((row) => row.node)))),
  ];
  return {
    nodes, redraw: render,
    hint: "Paint on the large map, move its pixels about, or shuffle them, " +
      "and watch z.",
    keys: "Keyboard, on the map: arrows move the cursor, Space adds d, X or " +
      "Backspace takes d away, Shift + arrow moves the pixel.",
  };
}

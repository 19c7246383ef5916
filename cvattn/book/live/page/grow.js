// Grow: a trained network's choice of kernels while the object grows.

function buildGrow(root, data, say, result) {
  const { names, classes, sides, widths } = data;
  const pixels = decode(data.pictures), weights = decode(data.weights);
  const probabilities = decode(data.probabilities);
  const all = widths.reduce((a, b) => a + b), S = sides.length;
  const starts = widths.map((_, l) => widths.slice(0, l).reduce((a, b) => a + b, 0));
  const state = { picture: 0, at: (S - 1) / 2, layer: 1 };
  // The weights of the larger kernel in every channel of a layer.
  const channels = (picture, at, layer) => {
    const start = (picture * S + at) * all + starts[layer];
    return [...weights.subarray(start, start + widths[layer])];
  };
  const mean = (list) => list.reduce((a, b) => a + b) / list.length;
  const means = (picture, at) => widths.map((_, l) => mean(channels(picture, at, l)));
  // Half the width of the bars' axis around 1/2: no mean of any picture leaves it.
  let reach = 0;
  names.forEach((_, p) => sides.forEach((_, i) => means(p, i).forEach((a) => {
    reach = Math.max(reach, Math.abs(a - 0.5));
  })));
  reach = Math.ceil(reach * 20) / 20;
  const times = (at) => `\u00d7${(sides[at] / sides[0]).toFixed(2)}`;
  const spot = (a) => clamp(0.5 + (a - 0.5) / (2 * reach), 0, 1);

  const shown = canvas({ class: "seen", role: "img", "aria-label": "" },
    (context, w) => {
      const start = (state.picture * S + state.at) * 784;
      cells(context, w, 28, (i) => {
        const v = pixels[start + i];
        return `rgb(${v}, ${v}, ${v})`;
      });
    });
  const rows = widths.map((width, l) => {
    const share = bar(), number = el("span", { class: "number" });
    const change = el("span", { class: "number change" });
    return { share, number, change, node: el("li", {},
      el("span", {}, `layer ${l + 1}`), share.node, number, change) };
  });
  const LINE = 16, LEFT = 28;
  const chart = canvas({ class: "chart", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      const now = channels(state.picture, state.at, state.layer);
      const first = channels(state.picture, 0, state.layer);
      const tall = h - LINE, x = (c) => LEFT + (c * (w - LEFT)) / now.length;
      const wide = (w - LEFT) / now.length;
      context.font = "12px system-ui, sans-serif";
      context.textBaseline = "middle";
      context.textAlign = "right";
      for (const v of [0, 0.5, 1]) {
        const y = 6 + (1 - v) * (tall - 12);
        context.fillStyle = colour("line");
        context.fillRect(LEFT, Math.round(y), w - LEFT, 1);
        context.fillStyle = colour("muted");
        context.fillText(v === 0.5 ? "\u00bd" : String(v), LEFT - 6, y);
      }
      const y = (a) => 6 + (1 - a) * (tall - 12);
      now.forEach((a, c) => {
        context.fillStyle = colour("branch");
        context.fillRect(x(c) + wide * 0.15, Math.min(y(a), y(0.5)), wide * 0.7,
          Math.max(1, Math.abs(y(a) - y(0.5))));
        context.fillStyle = colour("ink");
        context.fillRect(x(c) + wide * 0.05, y(first[c]) - 1, wide * 0.9, 2);
      });
      context.textAlign = "center";
      context.fillStyle = colour("muted");
      context.fillText(`the ${now.length} channels of layer ${state.layer + 1}`,
        LEFT + (w - LEFT) / 2, h - LINE / 2 + 1);
    });

  function render() {
    const now = means(state.picture, state.at), first = means(state.picture, 0);
    rows.forEach(({ share, number, change }, l) => {
      share.set(0.5, spot(now[l]), spot(first[l]));
      number.textContent = now[l].toFixed(3);
      change.textContent = signed(now[l] - first[l], 3);
    });
    const own = channels(state.picture, state.at, state.layer);
    shown.node.setAttribute("aria-label", `${names[state.picture]}, ` +
      `${sides[state.at]} of 28 pixels wide`);
    chart.node.setAttribute("aria-label", `Weights of the larger kernel in the ` +
      `${own.length} channels of layer ${state.layer + 1}, from ` +
      `${Math.min(...own).toFixed(3)} to ${Math.max(...own).toFixed(3)}`);
    shown.redraw();
    chart.redraw();
    Object.assign(root.dataset, { picture: state.picture, side: sides[state.at],
      layer: state.layer, means: JSON.stringify(now), channels: JSON.stringify(own) });
  }
  function tell() {
    const now = means(state.picture, state.at), first = means(state.picture, 0);
    const up = now.filter((a, l) => a > first[l]).length;
    const start = (state.picture * S + state.at) * classes.length;
    const p = [...probabilities.subarray(start, start + classes.length)];
    const own = channels(state.picture, state.at, state.layer);
    const before = channels(state.picture, 0, state.layer);
    const turned = own.filter((a, c) => a > before[c]).length;
    say(`${names[state.picture]}, ${sides[state.at]} pixels wide, ${times(state.at)}: ` +
      (state.at ? `against \u00d71.00 the larger kernel's mean weight is higher in ${up} ` +
        `of ${now.length} layers; in layer ${state.layer + 1} it rose in ${turned} of ` +
        `${own.length} channels. ` : "the size that the marks show. ") +
      `The network says ${classes[argmax(p)]}, ${Math.round(100 * Math.max(...p))} %.`);
  }
  const change = (part) => {
    Object.assign(state, part);
    render();
    tell();
  };
  const size = slider("Side of the object:", { min: sides[0], max: sides[S - 1], step: 1,
    value: sides[state.at],
    words: (side) => `${side} pixels, ${times(side - sides[0])}` },
  (side) => change({ at: side - sides[0] }));
  const input = size.querySelector("input");
  // Put the slider at a side, as if by hand.
  const put = (side) => {
    input.value = clamp(side, sides[0], sides[S - 1]);
    input.dispatchEvent(new Event("input"));
  };
  const jumps = [0, (S - 1) / 2, S - 1].map((at) =>
    button(`\u00d7${(sides[at] / sides[0]).toFixed(1)}`, () => put(sides[at]),
      { "aria-label": `Enlarge ${(sides[at] / sides[0]).toFixed(1)} times` }));
  draggable(shown.node, 28, (x, y) => {
    put(Math.round(56 * Math.max(Math.abs(x - 0.5), Math.abs(y - 0.5))));
  }, tell);
  const pick = pictureChoice(root, names,
    Uint8Array.from({ length: names.length * 784 },
      (_, i) => pixels[(Math.floor(i / 784) * S + S - 1) * 784 + (i % 784)]),
    (picture) => change({ picture }));
  render();
  tell();
  const nodes = [
    pick,
    el("div", { class: "grow" },
      el("div", {}, shown.node, size, el("div", { class: "picks" }, ...jumps)),
      el("div", {}, el("span", { class: "name" },
        `Mean weight of the larger kernel, ${(0.5 - reach).toFixed(2)} to ` +
        `${(0.5 + reach).toFixed(2)}, and its change from \u00d71.00`),
      el("ul", { class: "layers" }, ...rows.map((row) => row.node)))),
    result,
    choice("Channels of", root.id + "-layer",
      widths.map((_, l) => [l, `layer ${l + 1}`]), state.layer,
      (layer) => change({ layer })),
    chart.node,
  ];
  return {
    nodes, redraw: render,
    hint: "Drag the picture's edge, or the slider. The weights are the network's own, " +
      "at every size; the marks stay where they are at \u00d71.00.",
    keys: "Keyboard: Tab to the slider or a choice, then the arrow keys; Enter presses a " +
      "button.",
  };
}

// Hierarchy: the gates of trained networks over a scene, stage by stage.

// How a map is spread: the mean of the gate on each region, the share of it on the
// object, and the object's share of the area. `regions` are masks of n x n pixels.
function spread(M, size, regions, n) {
  const k = n / size, sums = {};
  for (const [name, mask] of Object.entries(regions)) {
    let on = 0, gate = 0;
    M.forEach((value, i) => {
      const top = Math.floor(i / size) * k, left = (i % size) * k;
      let count = 0;
      for (let r = 0; r < k; r++) {
        for (let c = 0; c < k; c++) count += mask[(top + r) * n + left + c];
      }
      on += count / (k * k);
      gate += (value * count) / (k * k);
    });
    sums[name] = { on, gate, mean: gate / on };
  }
  const all = M.reduce((a, b) => a + b);
  return { means: Object.fromEntries(Object.entries(sums).map(([k, v]) => [k, v.mean])),
    mass: sums.object.gate / all, area: sums.object.on / M.length };
}

function buildHierarchy(root, data, say, result) {
  const { names, size: n, arms, sizes } = data, P = n * n;
  const pictures = decode(data.pictures), object = decode(data.object);
  const fragments = decode(data.fragments);
  const maps = Object.fromEntries(Object.entries(data.maps).map(([k, v]) => [k, decode(v)]));
  const state = { picture: 0, arm: "sum", stage: 1, blend: 0.6, scale: "fixed" };
  let M, out;

  const part = (list, i) => list.subarray(i * P, (i + 1) * P);
  const view = canvas({ class: "view", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      const pixels = part(pictures, state.picture), side = sizes[state.stage - 1];
      const low = state.scale === "fixed" ? 0 : Math.min(...M);
      const high = state.scale === "fixed" ? 1 : Math.max(...M);
      cells(context, w, n, (i) => `rgb(${pixels[i]}, ${pixels[i]}, ${pixels[i]})`);
      context.globalAlpha = state.blend;
      cells(context, w, side, (i) => {
        const t = clamp((M[i] - low) / (high - low || 1), 0, 1);
        return mix(colour("low"), colour("high"), t);
      });
      context.globalAlpha = 1;
      // The outline of the object, a line between the pixels.
      const on = part(object, state.picture), cell = w / n;
      context.strokeStyle = colour("edge");
      context.lineWidth = 1.5;
      context.beginPath();
      on.forEach((inside, i) => {
        if (!inside) return;
        const r = Math.floor(i / n), c = i % n;
        const at = (dr, dc) => (r + dr >= 0 && r + dr < n && c + dc >= 0 && c + dc < n
          ? on[i + dr * n + dc] : 0);
        for (const [dr, dc, x0, y0, x1, y1] of [[-1, 0, 0, 0, 1, 0], [1, 0, 0, 1, 1, 1],
          [0, -1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 1]]) {
          if (at(dr, dc)) continue;
          context.moveTo((c + x0) * cell, (r + y0) * cell);
          context.lineTo((c + x1) * cell, (r + y1) * cell);
        }
      });
      context.stroke();
    });
  const mass = el("b"), area = el("b"), range = el("b");
  const rows = ["object", "fragments", "empty"].map((name) => {
    const share = bar(), number = el("span", { class: "number" });
    return { name, share, number, node: el("li", {}, el("span", {}, name), share.node,
      number) };
  });

  function render() {
    const { picture, arm, stage } = state, side = sizes[stage - 1];
    M = maps[arm + stage].subarray(picture * side * side, (picture + 1) * side * side);
    const regions = { object: part(object, picture), fragments: part(fragments, picture) };
    regions.empty = regions.object.map((value, i) => 1 - value - regions.fragments[i]);
    out = spread(Array.from(M), side, regions, n);
    mass.textContent = `${(100 * out.mass).toFixed(1)} %`;
    area.textContent = `${(100 * out.area).toFixed(1)} %`;
    range.textContent = `${Math.min(...M).toFixed(2)} to ${Math.max(...M).toFixed(2)}`;
    for (const { name, share, number } of rows) {
      share.set(0, out.means[name], 0.5);
      number.textContent = out.means[name].toFixed(3);
    }
    view.node.setAttribute("aria-label", `${names[picture]} among fragments, with the ` +
      `gates of ${arm} after stage ${stage}`);
    view.redraw();
    Object.assign(root.dataset, { ...state, out: JSON.stringify(out) });
  }
  function tell() {
    say(`${names[state.picture]}, ${state.arm}, after stage ${state.stage}: ` +
      `${mass.textContent} of the gates' mass lies on the object, which covers ` +
      `${area.textContent} of the area. Mean gate on the object ` +
      `${out.means.object.toFixed(3)}, on fragments ${out.means.fragments.toFixed(3)}, ` +
      `on empty canvas ${out.means.empty.toFixed(3)}.`);
  }
  function change(next) {
    Object.assign(state, next);
    render();
    tell();
  }
  const thumbs = names.map((name, i) => [i, canvas({ "aria-hidden": true },
    (context, w) => cells(context, w, n, (p) => {
      const grey = part(pictures, i)[p];
      return `rgb(${grey}, ${grey}, ${grey})`;
    })).node, name]);
  render();
  tell();
  const nodes = [
    choice("Scene", root.id + "-picture", thumbs, 0, (picture) => change({ picture }),
      "even"),
    el("div", { class: "controls" },
      choice("After", root.id + "-stage", [1, 2, 3].map((i) => [i, `stage ${i}`]), 1,
        (stage) => change({ stage })),
      choice("Combined by", root.id + "-arm", arms.map((arm) => [arm, arm]), "sum",
        (arm) => change({ arm })),
      choice("Colours from", root.id + "-scale", [["fixed", "0 to 1"],
        ["own", "least to greatest"]], "fixed", (scale) => change({ scale }))),
    slider("Map over picture:", { min: 0, max: 1, step: 0.05, value: state.blend,
      words: (v) => `${Math.round(100 * v)} %` }, (blend) => change({ blend })),
    result,
    el("div", { class: "hierarchy" }, view.node, el("div", {},
      el("p", {}, "mass on the object ", mass, ", its area ", area),
      el("p", {}, "gates from ", range),
      el("p", { class: "name" }, "mean gate on"), el("ul", {}, ...rows.map((r) => r.node)))),
  ];
  return { nodes, redraw: render,
    hint: "The map alone, at 100 %, goes from light (0, or the least gate) to orange (1, or " +
      "the greatest). The line is the object's outline, which no network was given.",
    keys: "Keyboard: Tab to a choice or the slider, and use the arrows." };
}

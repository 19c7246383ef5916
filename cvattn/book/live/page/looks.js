// Looks: click a patch of a picture, choose layer and head, see where it looks.

// The mean over heads of one layer's maps.
const overHeads = (maps) => maps[0].map((row, n) => row.map((_, m) =>
  maps.reduce((sum, map) => sum + map[n][m], 0) / maps.length));

// Attention rollout: half shortcut, half look-up, multiplied through the layers.
function rollout(weights) {
  const n = weights[0][0].length;
  let R = Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => +(i === j)));
  for (const maps of weights) {
    const W = overHeads(maps);
    R = W.map((row, i) => R[i].map((own, j) => {
      let sum = 0;
      for (let m = 0; m < n; m++) sum += row[m] * R[m][j];
      return (own + sum) / 2;
    }));
  }
  return R;
}

function buildLooks(root, data, say, result) {
  const vit = new Vit(data), pictures = decode(data.pictures), { side, N } = vit;
  const here = Array.from({ length: N }, (_, n) => n), ROLLOUT = data.layers;
  const state = { picture: 0, token: (N + 1) / 2, layer: data.layers - 1, head: -1 };
  let run, flow, cursor = state.token - 1;

  const pixels = () => pictures.subarray(state.picture * 784, (state.picture + 1) * 784);
  function row() {
    if (state.layer === ROLLOUT) return flow[state.token];
    const maps = run.weights[state.layer];
    return (state.head < 0 ? overHeads(maps) : maps[state.head])[state.token];
  }
  const where = (n) => `row ${Math.floor(n / side) + 1}, column ${(n % side) + 1}`;
  const asker = () => (state.token ? `The patch at ${where(state.token - 1)}` : "The class token");

  function frame(context, w, n, colour) {
    const cell = w / side, x = (n % side) * cell, y = Math.floor(n / side) * cell;
    for (const [width, name] of [[5, "paper"], [2.5, "softmax"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour(name);
      context.strokeRect(x + 1.5, y + 1.5, cell - 3, cell - 3);
    }
  }
  const shown = canvas({ class: "map", tabindex: 0, role: "application",
    "aria-roledescription": "patch to choose",
    "aria-label": "The picture in 7 by 7 patches: arrows choose the patch that asks, " +
      "Escape the class token" }, (context, w, h, colour) => {
    const values = pixels();
    cells(context, w, 28, (i) => `rgb(${values[i]}, ${values[i]}, ${values[i]})`);
    context.fillStyle = colour("muted");
    for (let i = 1; i < side; i++) {
      context.fillRect((i * w) / side, 0, 0.5, h);
      context.fillRect(0, (i * h) / side, w, 0.5);
    }
    if (state.token) frame(context, w, state.token - 1, colour);
  });
  const map = canvas({ class: "map", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      const p = row(), top = Math.max(...p.slice(1));
      cells(context, w, side, (n) => mix(colour("quiet"), colour("softmax"), p[1 + n] / top));
      if (state.token) frame(context, w, state.token - 1, colour);
    });
  const share = bar(), shareText = el("span", { class: "number" });
  const most = el("span", { class: "number" });
  const words = (token) => (token ? `patch ${token} (${where(token - 1)})` : "class token");
  const who = slider("Who asks:", { min: 0, max: N, step: 1, value: state.token, words },
    (token) => change({ token }));
  const whoInput = who.querySelector("input");

  function render() {
    const p = row();
    whoInput.value = state.token;
    whoInput.setAttribute("aria-valuetext", words(state.token));
    who.querySelector("b").textContent = words(state.token);
    share.set(0, p[0], 0);
    shareText.textContent = p[0].toFixed(3);
    const top = argmax(p.slice(1));
    most.textContent = `${p[1 + top].toFixed(3)} (${where(top)})`;
    map.node.setAttribute("aria-label", `Shares of the 49 patches; the largest is at ` +
      `${where(top)}, ${p[1 + top].toFixed(3)}`);
    shown.redraw();
    map.redraw();
    Object.assign(root.dataset, { picture: state.picture, token: state.token,
      layer: state.layer, head: state.head, shares: JSON.stringify([...p]),
      logits: JSON.stringify(run.logits) });
  }
  function tell() {
    const p = row(), top = argmax(p.slice(1));
    const how = state.layer === ROLLOUT ? "through all layers" : `in layer ${state.layer + 1}, ` +
      (state.head < 0 ? "its heads together" : `head ${state.head + 1}`);
    say(`${asker()} ${how}: most goes to the patch at ${where(top)}, ` +
      `${p[1 + top].toFixed(3)}; to the class token ${p[0].toFixed(3)}.`);
  }
  function change(part) {
    Object.assign(state, part);
    if (state.token) cursor = state.token - 1;
    render();
    tell();
  }
  function load(picture) {
    state.picture = picture;
    run = vit.run(pixels(), here, here);
    flow = rollout(run.weights);
    change({});
  }
  shown.node.addEventListener("click", (event) => {
    const box = shown.node.getBoundingClientRect();
    const at = (x, length) => clamp(Math.floor((x / length) * side), 0, side - 1);
    change({ token: 1 + side * at(event.clientY - box.top, box.height) +
      at(event.clientX - box.left, box.width) });
  });
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  shown.node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = STEPS[event.key];
    if (step) {
      const r = clamp(Math.floor(cursor / side) + step[0], 0, side - 1);
      const c = clamp((cursor % side) + step[1], 0, side - 1);
      change({ token: 1 + r * side + c });
    } else if (event.key === "Escape") change({ token: 0 });
    else return;
    event.preventDefault();
  });
  load(0);
  const nodes = [
    pictureChoice(root, data.names, pictures, load),
    el("div", { class: "controls" },
      el("div", { class: "picks" }, button("Ask by the class token", () => change({ token: 0 }))),
      choice("Layer", root.id + "-layer", [...Array.from({ length: data.layers }, (_, l) =>
        [l, `${l + 1}`]), [ROLLOUT, "rollout"]], state.layer, (layer) => change({ layer })),
      choice("Head", root.id + "-head", [[-1, "mean"], ...Array.from({ length: data.heads },
        (_, h) => [h, `${h + 1}`])], state.head, (head) => change({ head })), who),
    el("div", { class: "looks" },
      el("div", {}, el("span", { class: "name" }, "Click the patch that asks"), shown.node),
      el("div", {}, el("span", { class: "name" }, "Where it looks: the pinker, the more"),
        map.node),
      el("ul", {},
        el("li", {}, el("span", {}, "class token"), share.node, shareText),
        el("li", {}, el("span", {}, "largest patch"), most))),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Click a patch; choose a layer and a head. The network runs in the page. " +
      "(Rollout has no heads.)",
    keys: "Keyboard: on the picture, arrows choose the patch, Escape the class token; " +
      "Tab to the slider and the choices.",
  };
}

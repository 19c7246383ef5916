// Gate surgery: the gates of a trained network's last SE block, by hand.

// y = relu(shortcut + s u), the mean over the places, the linear layer, softmax.
function predict({ shortcut, u, weight, bias, gates }) {
  const channels = gates.length, places = u.length / channels;
  const mean = gates.map((s, c) => {
    let sum = 0;
    for (let i = c * places; i < (c + 1) * places; i++) {
      sum += Math.max(0, shortcut[i] + s * u[i]);
    }
    return sum / places;
  });
  const logits = Array.from(bias, (b, k) =>
    mean.reduce((sum, m, c) => sum + weight[k * channels + c] * m, b));
  const top = Math.max(...logits);
  const e = logits.map((v) => Math.exp(v - top));
  const total = e.reduce((a, b) => a + b);
  return e.map((v) => v / total);
}

function buildSurgery(root, data, say, result) {
  const [pictures, shortcut, u, learned, classGates, weight, bias] = [data.pictures,
    data.shortcut, data.u, data.gates, data.class_gates, data.fc_weight, data.fc_bias,
  ].map(decode);
  const channels = learned.length / data.names.length;
  const part = (all, i) => {
    const n = all.length / data.names.length;
    return all.subarray(i * n, (i + 1) * n);
  };
  let shown = 0, gates, selected = 0, shuffles = 0, own;
  let chances, usual;     // class probabilities: with these gates, with the learned

  const learnedGates = () => Array.from(part(learned, shown));
  const run = (s) => predict({ shortcut: part(shortcut, shown), u: part(u, shown),
    weight, bias, gates: s });
  const verdict = (p) => `${data.classes[argmax(p)]}, ${p[argmax(p)].toFixed(3)}`;

  // Bars -------------------------------------------------------------------
  const LEFT = 26, TOP = 20, GAP = 26;
  const lines = () => (graph.node.clientWidth < 520 ? 2 : 1);
  // The box that bar c fills when its gate is 1.
  function slot(c) {
    const { clientWidth: w, clientHeight: h } = graph.node;
    const each = channels / lines(), width = (w - LEFT) / each;
    const height = (h - TOP - GAP * (lines() - 1) - 4) / lines();
    const y = TOP + Math.floor(c / each) * (height + GAP);
    return { x: LEFT + (c % each) * width, y, width, height };
  }
  const graph = canvas({
    class: "gates", tabindex: 0, role: "slider", "aria-orientation": "vertical",
    "aria-label": "Gates: left and right choose the channel, up and down set its gate",
    "aria-valuemin": 0, "aria-valuemax": 1,
  }, (context, w, h, colour) => {
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (let line = 0; line < lines(); line++) {
      const { y, height } = slot((line * channels) / lines());
      for (const value of [0, 0.5, 1]) {
        const at = Math.round(y + height * (1 - value)) + 0.5;
        context.fillStyle = colour("muted");
        context.textAlign = "right";
        context.fillText(value === 0.5 ? ".5" : String(value), LEFT - 7, at);
        context.fillStyle = colour("line");
        context.fillRect(LEFT, at - 0.5, w - LEFT, 1);
      }
    }
    gates.forEach((s, c) => {
      const { x, y, width, height } = slot(c);
      const inset = Math.max(0.75, width * 0.14);
      context.fillStyle = colour(c === selected ? "ink" : "channel");
      context.fillRect(x + inset, y + height * (1 - s), width - 2 * inset, height * s);
      context.fillStyle = colour(c === selected ? "channel" : "ink");
      context.fillRect(x + 0.5, y + height * (1 - part(learned, shown)[c]) - 1,
        width - 1, 2);
    });
    const { x, y, width } = slot(selected);
    const text = `channel ${selected}: ${gates[selected].toFixed(3)}`;
    const half = context.measureText(text).width / 2;
    context.textAlign = "center";
    context.fillStyle = colour("ink");
    context.fillText(text, clamp(x + width / 2, LEFT + half, w - half), y - 11);
  });

  // Classes ----------------------------------------------------------------
  const rows = data.classes.map((name) => {
    const chance = bar(), number = el("span", { class: "number" });
    return { chance, number, node: el("li", {}, el("span", {}, name), chance.node,
      number) };
  });
  const photo = canvas({ class: "photo", role: "img", "aria-label": "" },
    (context, w) => {
      const pixels = part(pictures, shown);
      cells(context, w, 28, (i) => `rgb(${pixels[i]}, ${pixels[i]}, ${pixels[i]})`);
    });

  const answer = el("b"), sure = el("span"), compare = el("p", { class: "name" });

  function render() {
    chances = run(gates);
    usual = run(learnedGates());
    const top = argmax(chances);
    rows.forEach(({ chance, number, node }, k) => {
      chance.set(0, chances[k], usual[k]);
      number.textContent = chances[k].toFixed(3);
      node.classList.toggle("top", k === top);
    });
    for (const [name, node] of Object.entries(presets)) {
      node.setAttribute("aria-pressed", name === own);
    }
    if (own !== "class") other.value = "";
    answer.textContent = data.classes[top];
    sure.textContent = chances[top].toFixed(3);
    compare.textContent = `learned: ${verdict(usual)}`;
    const words = `channel ${selected}: gate ${gates[selected].toFixed(3)}, ` +
      `learned ${part(learned, shown)[selected].toFixed(3)}`;
    graph.node.setAttribute("aria-valuenow", gates[selected].toFixed(3));
    graph.node.setAttribute("aria-valuetext", words);
    photo.node.setAttribute("aria-label", `The picture: ${data.names[shown]}`);
    photo.redraw();
    graph.redraw();
    Object.assign(root.dataset, { picture: shown, gates: JSON.stringify(gates),
      probabilities: JSON.stringify(chances), learned: JSON.stringify(usual) });
  }
  const tell = (what) => say(`${what}: ${verdict(chances)}.` +
    (own === "learned" ? "" : ` With the learned gates: ${verdict(usual)}.`));

  // What sets gates --------------------------------------------------------
  function preset(name, what, values) {
    own = name;
    gates = values;
    render();
    tell(what);
  }
  function setGate(c, value) {
    selected = c;
    gates[c] = clamp(value, 0, 1);
    own = "hand";
  }
  const byHand = () => tell(`Channel ${selected} at ${gates[selected].toFixed(3)}`);
  const presets = {
    learned: button("Learned", () => preset("learned", "Learned gates",
      learnedGates())),
    open: button("All open (1)", () => preset("open", "All gates open",
      learnedGates().fill(1))),
    shut: button("All shut (0)", () => preset("shut", "All gates shut",
      learnedGates().fill(0))),
    mean: button("All at their mean", () => {
      const s = learnedGates();
      const mean = s.reduce((a, b) => a + b) / channels;
      preset("mean", `All gates at this picture's mean, ${mean.toFixed(3)}`,
        s.fill(mean));
    }),
    shuffled: button("Shuffled", () => {
      shuffles += 1;
      const s = learnedGates();
      preset("shuffled", `Learned gates in another order (permutation ${shuffles})`,
        permutation(channels, shuffles).map((c) => s[c]));
    }),
  };
  const other = el("select", { "aria-label": "The mean gates of a class",
    onchange: () => {
      const k = Number(other.value);
      preset("class", `Mean gates of the class ${data.classes[k]}`,
        Array.from(classGates.subarray(k * channels, (k + 1) * channels)));
    } },
    el("option", { value: "", disabled: true }, "choose a class"),
    ...data.classes.map((name, k) => el("option", { value: k }, name)));

  draggable(graph.node, 2 * channels, (px, py, first) => {
    const x = px * graph.node.clientWidth, y = py * graph.node.clientHeight;
    const last = channels / lines() - 1;
    // The press decides which line of bars the drag stays on.
    if (first) line = lines() === 2 && y > slot(last + 1).y - GAP / 2 ? 1 : 0;
    const { width } = slot(0), c = clamp(Math.floor((x - LEFT) / width), 0, last) +
      line * (last + 1);
    const box = slot(c);
    setGate(c, 1 - (y - box.y) / box.height);
    render();
  }, byHand);
  let line = 0;

  const CHANGES = { ArrowUp: 0.01, ArrowDown: -0.01, PageUp: 0.1, PageDown: -0.1,
    Home: -1, End: 1 };
  const MOVES = { ArrowLeft: -1, ArrowRight: 1 };
  graph.node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in MOVES) {
      selected = clamp(selected + MOVES[event.key], 0, channels - 1);
      render();
    } else if (event.key in CHANGES) {
      setGate(selected, gates[selected] + CHANGES[event.key]);
      render();
      byHand();
    } else return;
    event.preventDefault();
  });

  function load(picture) {
    shown = picture;
    shuffles = 0;
    preset("learned", "Learned gates", learnedGates());
  }
  load(0);
  const nodes = [
    pictureChoice(root, data.names, pictures, load),
    el("div", { class: "surgery" },
      el("div", { class: "case" }, photo.node, el("div", {},
        el("p", { class: "name" }, "The network says"),
        el("p", { class: "answer" }, answer, sure), compare)),
      el("div", {}, el("span", { class: "name" },
        "Class probabilities (mark: with the learned gates)"),
        el("ul", { class: "classes" }, ...rows.map((row) => row.node)))),
    el("div", {}, el("span", { class: "name" },
      `The ${channels} gates of the last block (mark: learned)`), graph.node),
    el("div", { class: "controls" },
      el("div", { role: "group", "aria-label": "Set all gates" },
        el("span", { class: "name" }, "Set all gates"),
        el("div", { class: "picks pairs" }, ...Object.values(presets))),
      el("label", {}, el("span", { class: "name" }, "The mean gates of a class"),
        other)),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Drag the bars, or set them all at once: the page runs the rest of the " +
      "trained network with your gates.",
    keys: "Keyboard, on the bars: left and right choose a channel; up and down, " +
      "Page Up and Page Down set its gate; Home shuts it, End opens it.",
  };
}

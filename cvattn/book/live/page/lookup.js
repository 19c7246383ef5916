// Look-up: a dictionary that answers between its keys, by score, normalise, apply.

// The weight of each key, and their answer: the sum of weight times value.
function lookUp({ keys, values, q, tau, raised, normaliser }) {
  const scores = keys.map((k, m) => -((q - k) ** 2) / 2 + raised[m]);
  const a = scores.map((score) => score / tau);
  let weights = a.map((value) => 1 / (1 + Math.exp(-value)));
  if (normaliser === "softmax") {
    const top = Math.max(...a), e = a.map((value) => Math.exp(value - top));
    const total = e.reduce((x, y) => x + y);
    weights = e.map((value) => value / total);
  }
  return { scores, weights, y: weights.reduce((sum, w, m) => sum + w * values[m], 0) };
}

function buildLookup(root, data, say, result) {
  const { keys, values, low, high } = data;
  const state = { q: 10, tau: 1, raised: keys.map(() => 0), normaliser: "softmax" };
  let chosen = 1;         // the key whose score the slider moves
  const run = (change = {}) => lookUp({ keys, values, ...state, ...change });
  const hour = (h) => `${h} h`;

  const LEFT = 30, BOTTOM = 24, TOP = 10, RIGHT = 10;
  const chart = canvas({ class: "chart", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      const line = Array.from({ length: 161 }, (_, i) => {
        const q = low + ((high - low) * i) / 160;
        return [q, run({ q }).y];
      });
      const most = Math.max(5, ...line.map(([, y]) => Math.ceil(y)));
      const x = (q) => LEFT + ((q - low) / (high - low)) * (w - LEFT - RIGHT);
      const y = (v) => h - BOTTOM - (v / most) * (h - BOTTOM - TOP);
      const { weights, y: answer } = run();
      context.font = "12px system-ui, sans-serif";
      context.textBaseline = "middle";
      context.textAlign = "right";
      for (let v = 0; v <= most; v += most > 6 ? 3 : 1) {
        context.fillStyle = colour("line");
        context.fillRect(LEFT, Math.round(y(v)), w - LEFT - RIGHT, 1);
        context.fillStyle = colour("muted");
        context.fillText(String(v), LEFT - 7, y(v));
      }
      context.textAlign = "center";
      keys.forEach((k) => context.fillText(hour(k), x(k), h - 10));
      context.strokeStyle = colour("softmax");
      context.lineWidth = 3;
      context.lineJoin = "round";
      context.beginPath();
      line.forEach(([q, v]) => context.lineTo(x(q), y(v)));
      context.stroke();
      context.strokeStyle = colour("muted");
      context.lineWidth = 1.5;
      context.setLineDash([4, 4]);
      context.beginPath();
      context.moveTo(x(state.q), TOP);
      context.lineTo(x(state.q), h - BOTTOM);
      context.stroke();
      context.setLineDash([]);
      // A square of an entry is as full as its weight.
      keys.forEach((k, m) => {
        context.fillStyle = colour("paper");
        context.fillRect(x(k) - 7, y(values[m]) - 7, 14, 14);
        context.globalAlpha = Math.min(1, weights[m]);
        context.fillStyle = colour("softmax");
        context.fillRect(x(k) - 7, y(values[m]) - 7, 14, 14);
        context.globalAlpha = 1;
        context.strokeStyle = colour("ink");
        context.lineWidth = m === chosen ? 3 : 1.5;
        context.strokeRect(x(k) - 7, y(values[m]) - 7, 14, 14);
      });
      context.fillStyle = colour("ink");
      context.beginPath();
      context.arc(x(state.q), y(answer), 7, 0, 2 * Math.PI);
      context.fill();
    });

  const rows = keys.map((k, m) => {
    const share = bar(), score = el("span", { class: "number" });
    const number = el("span", { class: "number" });
    return { share, score, number, node: el("li", {},
      el("span", {}, hour(k)), el("span", { class: "number" }, `${values[m]} m`), score,
      share.node, number) };
  });
  const total = el("b"), answer = el("b");

  function render() {
    const { scores, weights, y } = run();
    const before = run({ raised: keys.map(() => 0) }).weights;
    rows.forEach(({ share, score, number, node }, m) => {
      share.set(0, weights[m], before[m]);
      score.textContent = fixed(scores[m], 2);
      number.textContent = weights[m].toFixed(3);
      node.classList.toggle("chosen", m === chosen);
    });
    total.textContent = weights.reduce((a, b) => a + b).toFixed(3);
    answer.textContent = `${y.toFixed(3)} m`;
    chart.node.setAttribute("aria-label", `The answer to every question from ${low} ` +
      `to ${high} h; at ${state.q.toFixed(1)} h it is ${y.toFixed(3)} m`);
    chart.redraw();
    Object.assign(root.dataset, { ...state, raised: JSON.stringify(state.raised),
      chosen, scores: JSON.stringify(scores), weights: JSON.stringify(weights),
      answer: JSON.stringify(y) });
  }
  function tell() {
    const { weights, y } = run(), top = argmax(weights);
    const outside = y > Math.max(...values) || y < Math.min(...values);
    say(`At ${state.q.toFixed(1)} h the answer is ${y.toFixed(3)} m` +
      (outside ? ", outside all values: these weights make no mean" : "") +
      `. The largest weight is that of ${hour(keys[top])}, ${weights[top].toFixed(3)}; ` +
      `all five sum to ${total.textContent}.`);
  }
  function change(part) {
    Object.assign(state, part);
    render();
    tell();
  }

  const asked = slider("Question q =", { min: low, max: high, step: 0.1, value: state.q,
    words: (q) => `${q.toFixed(1)} h` }, (q) => change({ q }));
  const heat = slider("Temperature \u03c4 =", { min: -2, max: 6, step: 0.25, value: 0,
    words: (e) => String(Number((2 ** e).toPrecision(3))) },
  (e) => change({ tau: 2 ** e }));
  const raise = slider("Raise its score by", { min: -8, max: 8, step: 0.5, value: 0,
    words: (b) => signed(b, 1) }, (b) => {
    state.raised[chosen] = b;
    change({});
  });
  // Put a slider at a value, as if by hand.
  const put = (node, value) => {
    const input = node.querySelector("input");
    input.value = value;
    input.dispatchEvent(new Event("input"));
  };
  draggable(chart.node, 160, (px) => {
    const { clientWidth: w } = chart.node;
    const at = (px * w - LEFT) / (w - LEFT - RIGHT);
    put(asked, clamp(low + at * (high - low), low, high));
  }, tell);
  const pick = choice("Key whose score you move", root.id + "-key",
    keys.map((k, m) => [m, hour(k)]), chosen, (m) => {
      chosen = m;
      put(raise, state.raised[m]);
    });
  const reset = button("All scores as they were", () => {
    state.raised.fill(0);
    put(raise, 0);
  });
  render();
  tell();
  const nodes = [
    el("div", { class: "lookup" },
      el("div", {}, el("span", { class: "name" },
        "Level in metres, over the hour asked for"), chart.node),
      el("div", {}, el("span", { class: "name" },
        "Key, value, score, weight (black line: weight with no score raised)"),
      el("ul", { class: "weights" }, ...rows.map((row) => row.node)),
      el("p", { class: "name sums" }, "sum of the weights ", total, ", answer ", answer))),
    el("div", { class: "controls" }, asked, heat,
      choice("Normaliser", root.id + "-normaliser",
        [["softmax", "softmax"], ["sigmoid", "sigmoid"]], state.normaliser,
        (normaliser) => change({ normaliser }))),
    el("div", { class: "controls" }, pick, raise, reset),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Drag in the chart to ask for another hour. Then move one key's score and " +
      "watch the weights of the others, under softmax and under sigmoid.",
    keys: "Keyboard: Tab to a slider or choice, then the arrow keys.",
  };
}

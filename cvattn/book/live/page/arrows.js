// Arrows: one query, four keys, and the three steps of a look-up.

function lookAlong({ q, keys, values, shut, divided }) {
  const scale = divided ? Math.sqrt(q.length) : 1;
  const scores = keys.map((k) => (q[0] * k[0] + q[1] * k[1]) / scale);
  const open = scores.map((a, m) => (shut[m] ? -Infinity : a));
  const top = Math.max(...open);
  const e = open.map((a) => (top === -Infinity ? 0 : Math.exp(a - top)));
  const total = e.reduce((sum, v) => sum + v, 0);
  const weights = e.map((v) => (total ? v / total : 0));
  const y = [0, 1].map((i) => weights.reduce((sum, p, m) => sum + p * values[m][i], 0));
  return { scores, weights, y };
}

function buildArrows(root, data, say, result) {
  const { values, most } = data;
  const state = { q: [...data.q], keys: data.keys.map((k) => [...k]),
    shut: data.keys.map(() => false), divided: true };
  let held = -1;            // -1 is the query, else the number of a key
  const run = () => lookAlong({ ...state, values });
  const arrow = () => (held < 0 ? state.q : state.keys[held]);
  const nameOf = (m) => (m < 0 ? "the query" : `key ${m + 1}`);

  const to = (w, h, [x, y]) => [w / 2 + (x / most) * (w / 2 - 16),
    h / 2 - (y / most) * (h / 2 - 16)];
  const plane = canvas({ class: "plane", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      context.strokeStyle = colour("line");
      context.lineWidth = 1;
      for (const r of [1, 2, 3]) {
        context.beginPath();
        context.arc(w / 2, h / 2, (r / most) * (w / 2 - 16), 0, 2 * Math.PI);
        context.stroke();
      }
      const { weights } = run();
      const draw = (v, name, hue, thick, dashed) => {
        const [x, y] = to(w, h, v), angle = Math.atan2(h / 2 - y, x - w / 2);
        context.strokeStyle = context.fillStyle = hue;
        context.lineWidth = thick;
        context.setLineDash(dashed ? [3, 5] : []);
        context.beginPath();
        context.moveTo(w / 2, h / 2);
        context.lineTo(x, y);
        context.stroke();
        context.setLineDash([]);
        context.beginPath();
        context.moveTo(x + 4 * Math.cos(angle), y - 4 * Math.sin(angle));
        for (const turn of [2.5, -2.5]) {
          context.lineTo(x + 13 * Math.cos(angle + turn), y - 13 * Math.sin(angle + turn));
        }
        context.fill();
        context.font = "600 14px system-ui, sans-serif";
        context.textAlign = "center";
        context.textBaseline = "middle";
        context.fillStyle = colour("ink");
        context.fillText(name, clamp(x + 17 * Math.cos(angle), 9, w - 9),
          clamp(y - 17 * Math.sin(angle), 9, h - 9));
      };
      state.keys.forEach((k, m) => draw(k, `k${m + 1}`,
        mix(colour("line"), colour("softmax"), Math.sqrt(weights[m])),
        held === m ? 6 : 3, state.shut[m]));
      draw(state.q, "q", colour("ink"), held < 0 ? 6 : 3, false);
    });
  const target = canvas({ class: "plane", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      const { weights, y } = run();
      context.strokeStyle = colour("line");
      context.lineWidth = 1;
      context.strokeRect(8, 8, w - 16, h - 16);
      values.forEach((v, m) => {
        const [x0, y0] = to(w, h, v), side = 15;
        context.fillStyle = mix(colour("paper"), colour("softmax"), weights[m]);
        context.fillRect(x0 - side, y0 - side, 2 * side, 2 * side);
        context.strokeStyle = colour("ink");
        context.lineWidth = 1.5;
        context.strokeRect(x0 - side, y0 - side, 2 * side, 2 * side);
        context.fillStyle = colour("ink");
        context.font = "600 14px system-ui, sans-serif";
        context.textAlign = "center";
        context.textBaseline = "middle";
        context.fillText(`v${m + 1}`, x0, y0);
      });
      const [x, y0] = to(w, h, y);
      context.fillStyle = colour("ink");
      context.beginPath();
      context.arc(x, y0, 8, 0, 2 * Math.PI);
      context.fill();
    });

  const lines = state.keys.map((_, m) => {
    const share = bar(), score = el("span", { class: "number" }),
      number = el("span", { class: "number" });
    const box = el("input", { type: "checkbox", checked: true,
      "aria-label": `may look at key ${m + 1}`, onchange: (event) => {
        state.shut[m] = !event.target.checked;
        render();
        tell();
      } });
    return { share, score, number, node: el("li", {}, box, el("span", {}, `k${m + 1}`),
      score, share.node, number) };
  });
  const total = el("b"), place = el("b");

  function render() {
    const { scores, weights, y } = run();
    lines.forEach(({ share, score, number }, m) => {
      share.set(0, weights[m], 0);
      score.textContent = state.shut[m] ? "\u2212\u221e" : fixed(scores[m], 2);
      number.textContent = weights[m].toFixed(3);
    });
    total.textContent = weights.reduce((a, b) => a + b).toFixed(3);
    place.textContent = `(${fixed(y[0], 2)}, ${fixed(y[1], 2)})`;
    plane.node.setAttribute("aria-label", "The query and four keys as arrows; " +
      `${nameOf(held)} points to (${fixed(arrow()[0], 1)}, ${fixed(arrow()[1], 1)})`);
    target.node.setAttribute("aria-label",
      `Four values in the plane and their weighted mean at ${place.textContent}`);
    plane.redraw();
    target.redraw();
    Object.assign(root.dataset, { q: JSON.stringify(state.q), held,
      keys: JSON.stringify(state.keys), shut: JSON.stringify(state.shut),
      divided: state.divided, scores: JSON.stringify(scores),
      weights: JSON.stringify(weights), y: JSON.stringify(y) });
  }
  function tell() {
    const { weights } = run(), top = argmax(weights);
    say(state.shut.every((s) => s)
      ? "Every key is shut: there is nothing to share, and the result is zero."
      : `${nameOf(held)[0].toUpperCase()}${nameOf(held).slice(1)} points to ` +
        `(${fixed(arrow()[0], 1)}, ${fixed(arrow()[1], 1)}). Key ${top + 1} has the ` +
        `largest weight, ${weights[top].toFixed(3)}; the result is ${place.textContent}.`);
  }
  const step = (text, i) => slider(text, { min: -most, max: most, step: 0.1,
    value: state.q[i], words: (v) => fixed(Number(v), 1) }, (v) => {
    arrow()[i] = v;
    render();
    tell();
  });
  const sliders = [step("across =", 0), step("up =", 1)];
  // Show the held arrow's numbers without moving it.
  const showHeld = () => sliders.forEach((node, i) => {
    node.querySelector("input").value = arrow()[i];
    node.querySelector("b").textContent = fixed(arrow()[i], 1);
    node.querySelector("input").setAttribute("aria-valuetext", fixed(arrow()[i], 1));
  });
  const pick = choice("Arrow that you move", root.id + "-held",
    [[-1, "query"], ...state.keys.map((_, m) => [m, `key ${m + 1}`])], held, (m) => {
      held = m;
      showHeld();
      render();
      tell();
    });
  draggable(plane.node, 200, (px, py, first) => {
    const { clientWidth: w, clientHeight: h } = plane.node;
    if (first) {
      const far = [-1, ...state.keys.keys()].map((m) => {
        const [x, y] = to(w, h, m < 0 ? state.q : state.keys[m]);
        return [Math.hypot(x - px * w, y - py * h), m];
      }).sort((a, b) => a[0] - b[0]);
      held = far[0][1];
      pick.querySelectorAll("input")[held + 1].checked = true;
    }
    const at = [((px * w - w / 2) / (w / 2 - 16)) * most,
      ((h / 2 - py * h) / (h / 2 - 16)) * most];
    at.forEach((v, i) => { arrow()[i] = Math.round(10 * clamp(v, -most, most)) / 10; });
    showHeld();
    render();
  }, tell);
  render();
  tell();
  const nodes = [
    el("div", { class: "arrows" },
      el("div", {}, el("span", { class: "name" }, "Query and keys"), plane.node),
      el("div", {}, el("span", { class: "name" }, "May look, key, score, weight"),
        el("ul", { class: "weights" }, ...lines.map((line) => line.node)),
        el("p", { class: "name sums" }, "sum ", total, ", result ", place)),
      el("div", {}, el("span", { class: "name" }, "Values, and their mean (dot)"),
        target.node)),
    el("div", { class: "controls" }, pick, ...sliders,
      choice("Scores", root.id + "-divided", [[true, "divided by \u221ad"],
        [false, "not divided"]], true, (divided) => {
        state.divided = divided;
        render();
        tell();
      })),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Drag an arrow. Turn the query and watch the weights pass from key to key; " +
      "make it longer or shorter; shut a key.",
    keys: "Keyboard: Tab to a choice, a slider or a box, then the arrow keys or Space.",
  };
}

// Axis: one block of scores, and a softmax along the axis that you choose.

// Which other scores a score competes with: those with the same key.
const RIVALS = {
  branch: (b, m, c) => `${b} ${c}`,
  channel: (b, m, c) => `${b} ${m}`,
  all: (b, m, c) => `${b}`,
  batch: (b, m, c) => `${m} ${c}`,
};

// Weights of the scores, and what they make of the maps: `scores` and `maps` are
// (B, M, C) in one line; sums and output are (B, C), over the branches.
function choose({ scores, maps, axis, B, M, C }) {
  const places = scores.map((_, i) =>
    [Math.floor(i / (M * C)), Math.floor(i / C) % M, i % C]);
  const keys = places.map((place) => RIVALS[axis](...place));
  const top = {}, total = {};
  scores.forEach((score, i) => {
    top[keys[i]] = Math.max(top[keys[i]] ?? -Infinity, score);
  });
  const e = scores.map((score, i) => Math.exp(score - top[keys[i]]));
  e.forEach((value, i) => { total[keys[i]] = (total[keys[i]] ?? 0) + value; });
  const weights = e.map((value, i) => value / total[keys[i]]);
  const sums = Array(B * C).fill(0), output = Array(B * C).fill(0);
  places.forEach(([b, , c], i) => {
    sums[b * C + c] += weights[i];
    output[b * C + c] += weights[i] * maps[i];
  });
  return { weights, sums, output };
}

function buildAxis(root, data, say, result) {
  const { B, M, C, most } = data;
  const given = [...decode(data.scores)], maps = [...decode(data.maps)];
  const state = { scores: [...given], axis: "branch" };
  let chosen = 1, moved = [], out, draws = 0;
  const KERNELS = ["3 \u00d7 3", "5 \u00d7 5"];
  const NAMES = { branch: "branches", channel: "channels",
    all: "branches and channels", batch: "batch" };
  const RULE = { branch: "the branches of a channel", channel: "the channels of a branch",
    all: "all branches and channels of a picture",
    batch: "the pictures of the batch, score by score" };
  const at = (b, m, c) => (b * M + m) * C + c;
  const name = (i) => `picture ${Math.floor(i / (M * C)) + 1}, ` +
    `${KERNELS[Math.floor(i / C) % M]}, channel ${(i % C) + 1}`;
  const is1 = (sum) => Math.abs(sum - 1) < 1e-9;
  const within = (i) => {
    const b = Math.floor(i / C), c = i % C;
    const ends = [maps[at(b, 0, c)], maps[at(b, 1, c)]];
    return out.output[i] >= Math.min(...ends) - 1e-9 &&
      out.output[i] <= Math.max(...ends) + 1e-9;
  };
  const long = Math.max(...maps) * 1.15;

  const cells = state.scores.map((_, i) => button("", () => {
    chosen = i;
    put(state.scores[i]);
    tell();
  }, { class: "cell" }));
  const totals = Array.from({ length: B * C }, () => el("span", { class: "total" }));
  const outputs = Array.from({ length: B * C }, () => {
    const track = bar(), number = el("span", { class: "total" });
    return { track, number, node: el("div", {}, number, track.node) };
  });
  const row = (label, nodes) => [el("span", { class: "name" }, label), ...nodes];
  const pictures = Array.from({ length: B }, (_, b) => el("div", { class: "panel" },
    el("p", { class: "name" }, `Picture ${b + 1}: weights`),
    el("div", { class: "block" },
      ...row("", Array.from({ length: C }, (_, c) =>
        el("span", { class: "name head" }, `ch. ${c + 1}`))),
      ...KERNELS.flatMap((kernel, m) => row(kernel, cells.slice(at(b, m, 0),
        at(b, m, 0) + C))),
      ...row("sum", totals.slice(b * C, b * C + C)),
      ...row("V", outputs.slice(b * C, b * C + C).map((o) => o.node)))));

  function render() {
    out = choose({ ...state, maps, B, M, C });
    cells.forEach((node, i) => {
      const text = out.weights[i].toFixed(3);
      node.replaceChildren(el("b", {}, text), el("small", {}, fixed(state.scores[i], 1)));
      node.style.setProperty("--share", `${100 * out.weights[i]}%`);
      node.setAttribute("aria-pressed", i === chosen);
      node.setAttribute("aria-label", `${name(i)}: weight ${text}, ` +
        `score ${fixed(state.scores[i], 1)}`);
      node.classList.toggle("moved", moved.includes(i));
    });
    totals.forEach((node, i) => {
      node.textContent = out.sums[i].toFixed(3) + (is1(out.sums[i]) ? " \u2713" : "");
      node.classList.toggle("off", !is1(out.sums[i]));
    });
    outputs.forEach(({ track, number }, i) => {
      const b = Math.floor(i / C), c = i % C;
      track.set(maps[at(b, 0, c)] / long, maps[at(b, 1, c)] / long,
        Math.min(1, out.output[i] / long));
      number.textContent = out.output[i].toFixed(2);
      number.classList.toggle("off", !within(i));
    });
    Object.assign(root.dataset, { axis: state.axis, chosen,
      scores: JSON.stringify(state.scores), weights: JSON.stringify(out.weights),
      sums: JSON.stringify(out.sums), output: JSON.stringify(out.output),
      moved: JSON.stringify(moved) });
  }
  function tell() {
    const ones = out.sums.filter(is1).length;
    const inside = out.sums.filter((_, i) => within(i)).length;
    const others = moved.filter((i) => i !== chosen).map(name);
    say(`The scores compete among ${RULE[state.axis]}: ${ones} of ${B * C} sums over ` +
      `the branches are 1, and V lies between its two maps in ${inside} of ${B * C} ` +
      `channels.` + (others.length
      ? ` With that score moved the weight of ${others.length} ` +
        `other${others.length > 1 ? "s" : ""}: ${others.slice(0, 3).join("; ")}` +
        `${others.length > 3 ? "; \u2026" : ""}.` : ""));
  }
  const score = slider("Score of the chosen cell:", { min: -most, max: most, step: 0.1,
    value: state.scores[chosen], words: (v) => fixed(v, 1) }, (value) => {
    const before = out.weights;
    state.scores[chosen] = value;
    out = choose({ ...state, maps, B, M, C });
    moved = out.weights.flatMap((w, i) => (Math.abs(w - before[i]) > 1e-9 ? [i] : []));
    render();
    tell();
  });
  // Show the chosen cell's score on the slider, and move nothing.
  const input = score.querySelector("input");
  function put(value) {
    moved = [];
    input.value = value;
    score.querySelector("b").textContent = fixed(value, 1);
    input.setAttribute("aria-valuetext", fixed(value, 1));
    render();
  }
  const renew = (scores) => {
    state.scores = scores;
    put(scores[chosen]);
    tell();
  };
  const fresh = button("Other scores", () => {
    draws += 1;
    const next = random(draws);
    renew(given.map(() => Math.round(20 * most * (next() - 0.5)) / 10));
  });
  const reset = button("As they were", () => {
    draws = 0;
    renew([...given]);
  });
  render();
  tell();
  const nodes = [
    choice("Softmax along", root.id + "-axis", Object.entries(NAMES), state.axis,
      (axis) => {
        state.axis = axis;
        moved = [];
        render();
        tell();
      }, "pairs"),
    el("div", { class: "axis" }, ...pictures),
    el("div", { class: "controls" }, score, fresh, reset),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Small numbers: scores. Choose a cell and move its score: cells that follow " +
      "are framed. In the last row the bar reaches from one branch's value to the " +
      "other's, and the mark is V.",
    keys: "Keyboard: Tab to a choice, a cell or the slider; Enter chooses a cell, arrows " +
      "move the slider.",
  };
}

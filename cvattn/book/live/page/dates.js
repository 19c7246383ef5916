// Dates: a whole Transformer, read and written anew with every letter typed.

// Half precision, as bytes, to numbers.
function halves(bytes) {
  return Float64Array.from(new Uint16Array(bytes.buffer), (h) => {
    const sign = h & 0x8000 ? -1 : 1, e = (h >> 10) & 31, f = h & 1023;
    return sign * (e ? 2 ** (e - 15) * (1 + f / 1024) : 2 ** -14 * (f / 1024));
  });
}

class Model {
  constructor(weights, D, heads, layers) {
    Object.assign(this, { w: weights, D, heads, layers });
  }

  embed(ids) {
    const { D } = this, E = this.w["embedding.weight"];
    return ids.map((id, t) => Float64Array.from({ length: D }, (_, i) => {
      const angle = t / 10000 ** ((i - (i % 2)) / D);
      return E[id * D + i] * Math.sqrt(D) + (i % 2 ? Math.cos(angle) : Math.sin(angle));
    }));
  }

  // Attention by name; its maps, one for each head, go to `maps`.
  attend(name, x, context, causal, maps) {
    const [Q, K, V] = ["Q", "K", "V"].map((letter) =>
      linear(letter === "Q" ? x : context, this.w[`${name}.W_${letter}.weight`]));
    const d = this.D / this.heads;
    const Y = x.map(() => new Float64Array(this.D));
    for (let h = 0; h < this.heads; h++) {
      maps.push(Q.map((q, n) => {
        const scores = K.slice(0, causal ? n + 1 : K.length).map((k) => {
          let sum = 0;
          for (let i = h * d; i < (h + 1) * d; i++) sum += q[i] * k[i];
          return sum / Math.sqrt(d);
        });
        const p = softmax(scores);
        p.forEach((share, m) => {
          for (let i = h * d; i < (h + 1) * d; i++) Y[n][i] += share * V[m][i];
        });
        return p.concat(Array(K.length - p.length).fill(0));
      }));
    }
    return linear(Y, this.w[`${name}.W_O.weight`]);
  }

  // LayerNorm(x + y), by name.
  join(name, x, y) {
    return layerNorm(added(x, y), this.w[`${name}.weight`], this.w[`${name}.bias`],
      1e-5);
  }

  think(name, x) {
    const hidden = linear(x, this.w[`${name}.W1.weight`], this.w[`${name}.W1.bias`]);
    return linear(hidden.map((row) => row.map((v) => Math.max(0, v))),
      this.w[`${name}.W2.weight`], this.w[`${name}.W2.bias`]);
  }

  encode(source) {
    let x = this.embed(source);
    const encoder = [];
    for (let l = 0; l < this.layers; l++) {
      const name = `encoder.${l}`, maps = [];
      x = this.join(`${name}.norm1`, x, this.attend(`${name}.attention`, x, x, false, maps));
      x = this.join(`${name}.norm2`, x, this.think(`${name}.feed_forward`, x));
      encoder.push(maps);
    }
    return { memory: x, encoder };
  }

  decode(target, memory) {
    let x = this.embed(target);
    const back = [], cross = [];
    for (let l = 0; l < this.layers; l++) {
      const name = `decoder.${l}`, own = [], other = [];
      x = this.join(`${name}.norm1`, x, this.attend(`${name}.attention`, x, x, true, own));
      x = this.join(`${name}.norm2`, x, this.attend(`${name}.cross`, x, memory, false, other));
      x = this.join(`${name}.norm3`, x, this.think(`${name}.feed_forward`, x));
      back.push(own);
      cross.push(other);
    }
    return { logits: linear(x, this.w["embedding.weight"]).map((row) => [...row]),
      back, cross };
  }
}

function buildDates(root, data, say, result) {
  const { characters, start, end, dim, heads, layers, longest, extra, examples } = data;
  const numbers = halves(decode(data.numbers)), weights = {};
  let at = 0;
  for (const [name, size] of data.layout) {
    weights[name] = numbers.subarray(at, at += size);
  }
  const model = new Model(weights, dim, heads, layers);
  const letter = (id) => (id === start ? "start" : id === end ? "end" : characters[id - 3]);
  const visible = (text) => (text === " " ? "\u2423" : text);
  const state = { text: examples[0], kind: "cross", layer: layers - 1, head: -1, row: 5 };
  let run;

  // Read the text, then write letter by letter, each time the likeliest.
  function translate() {
    const source = [...state.text].map((c) => characters.indexOf(c) + 3);
    const { memory, encoder } = model.encode(source);
    const target = [start], most = Math.min(source.length + extra, longest);
    let out;
    while (target.length <= most && target[target.length - 1] !== end) {
      out = model.decode(target, memory);
      const last = out.logits[out.logits.length - 1].slice();
      last[0] = -Infinity;                       // padding is never written
      target.push(argmax(last));
    }
    const written = target.slice(1);
    run = { ...out, encoder, written, source,
      answer: written.filter((id) => id !== end).map(letter).join("") };
  }
  const rows = () => (state.kind === "encoder" ? [...state.text] : run.written.map(letter));
  const columns = () => (state.kind === "back"
    ? ["start", ...run.written.slice(0, -1).map(letter)] : [...state.text]);
  function chosenMap() {
    const maps = run[state.kind][state.layer];
    if (state.head >= 0) return maps[state.head];
    return maps[0].map((row, n) => row.map((_, m) =>
      maps.reduce((sum, map) => sum + map[n][m], 0) / heads));
  }

  const field = el("input", { type: "text", value: state.text, spellcheck: "false",
    autocomplete: "off", autocapitalize: "off", maxlength: longest - 8,
    "aria-label": "A date, in any form" });
  const answer = el("b", { class: "answer" });
  const LEFT = 46, TOP = 24;
  const grid = canvas({ class: "grid", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      const map = chosenMap(), down = rows(), across = columns();
      const cw = (w - LEFT) / across.length, ch = (h - TOP) / down.length;
      context.font = "13px ui-monospace, monospace";
      context.textBaseline = "middle";
      across.forEach((text, m) => {
        context.textAlign = "center";
        context.fillStyle = colour("ink");
        context.fillText(text === "start" ? "\u25b8" : visible(text), LEFT + (m + 0.5) * cw, TOP / 2);
      });
      map.forEach((line, n) => {
        context.textAlign = "right";
        context.fillStyle = colour(n === state.row ? "ink" : "muted");
        context.fillText(visible(down[n]), LEFT - 9, TOP + (n + 0.5) * ch);
        line.forEach((p, m) => {
          context.fillStyle = mix(colour("quiet"), colour("softmax"), Math.sqrt(p));
          context.fillRect(LEFT + m * cw + 0.5, TOP + n * ch + 0.5, cw - 1, ch - 1);
        });
      });
      context.strokeStyle = colour("ink");
      context.lineWidth = 2;
      context.strokeRect(LEFT, TOP + state.row * ch, w - LEFT - 1, ch);
    });

  const picks = Array.from({ length: 4 }, () => {
    const share = bar(), name = el("span", { class: "letter" }),
      number = el("span", { class: "number" });
    return { share, name, number, node: el("li", {}, name, share.node, number) };
  });
  const row = slider("Row", { min: 0, max: 10, step: 1, value: state.row,
    words: (n) => `${Number(n) + 1}` }, (n) => {
    state.row = n;
    render();
    tell();
  });
  const rowInput = row.querySelector("input");

  function render() {
    const map = chosenMap(), last = map.length - 1;
    state.row = clamp(state.row, 0, last);
    rowInput.max = last;
    if (Number(rowInput.value) !== state.row) rowInput.value = state.row;
    row.querySelector("b").textContent = `${state.row + 1}`;
    answer.textContent = run.answer || "\u2013";
    grid.node.style.height = `${TOP + 22 * map.length}px`;
    const n = state.kind === "encoder" ? run.logits.length - 1 : state.row;
    const p = softmax(run.logits[n]);
    const best = p.map((_, id) => id).sort((a, b) => p[b] - p[a]).slice(0, picks.length);
    picks.forEach(({ share, name, number }, i) => {
      name.textContent = best[i] ? visible(letter(best[i])) : "pad";
      share.set(0, p[best[i]], 0);
      number.textContent = p[best[i]].toFixed(3);
    });
    grid.node.setAttribute("aria-label", `Attention map, ${map.length} rows by ` +
      `${map[0].length} columns; each row sums to 1`);
    grid.redraw();
    Object.assign(root.dataset, { text: JSON.stringify(state.text), kind: state.kind,
      layer: state.layer, head: state.head, row: state.row,
      answer: JSON.stringify(run.answer), logits: JSON.stringify(run.logits),
      weights: JSON.stringify(map) });
  }
  function tell() {
    const line = chosenMap()[state.row], top = argmax(line);
    const name = (text) => (text === " " ? "space" : text);
    const who = state.head < 0 ? "its heads together" : `head ${state.head + 1}`;
    say(`Read as ${run.answer || "nothing"}. Layer ${state.layer + 1}, ${who}: ` +
      `${state.kind === "encoder" ? "the letter" : "writing"} ` +
      `\u201c${name(rows()[state.row])}\u201d looks most at ` +
      `\u201c${name(columns()[top])}\u201d, place ${top + 1}, with weight ` +
      `${line[top].toFixed(2)}.`);
  }
  function change(part) {
    Object.assign(state, part);
    render();
    tell();
  }
  field.addEventListener("input", () => {
    const known = [...field.value.toLowerCase()].filter((c) => characters.includes(c));
    const text = known.join("");
    if (!text) {
      say("Type a date: letters, digits, spaces and - / . , _");
      return;
    }
    state.text = text;
    translate();
    change({});
  });
  draggable(grid.node, 40, (x, y) => {
    const h = grid.node.clientHeight, n = rows().length;
    change({ row: clamp(Math.floor(((y * h - TOP) / (h - TOP)) * n), 0, n - 1) });
  }, tell);
  const tries = el("div", { class: "picks" }, ...examples.map((text) =>
    button(text, () => {
      field.value = text;
      field.dispatchEvent(new Event("input"));
    })));

  translate();
  render();
  tell();
  const nodes = [
    el("div", { class: "controls" },
      el("label", { class: "typed" }, el("span", { class: "name" }, "A date, in any form"),
        field),
      el("p", {}, el("span", { class: "name" }, "Read as"), answer)),
    el("div", {}, el("span", { class: "name" }, "Or one of these"), tries),
    el("div", { class: "dates" },
      el("div", {}, el("span", { class: "name" },
        "Rows ask, columns answer; a pink cell is a large weight"), grid.node, row),
      el("div", {}, el("span", { class: "name" }, "Likeliest letters of that row"),
        el("ul", { class: "weights" }, ...picks.map((pick) => pick.node)))),
    el("div", { class: "controls" },
      choice("Attention", root.id + "-kind", [["cross", "to what was read"],
        ["back", "back at what was written"], ["encoder", "among the letters read"]],
      state.kind, (kind) => change({ kind })),
      choice("Layer", root.id + "-layer", Array.from({ length: layers }, (_, l) =>
        [l, `${l + 1}`]), state.layer, (layer) => change({ layer })),
      choice("Head", root.id + "-head", [[-1, "mean"],
        ...Array.from({ length: heads }, (_, h) => [h, `${h + 1}`])], state.head,
      (head) => change({ head }))),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Type, and the page runs the whole network on your text. Then choose a row, " +
      "a layer and a head, and see where it looks.",
    keys: "Keyboard: type in the field; Tab to the slider Row or to a choice, then the " +
      "arrow keys.",
  };
}

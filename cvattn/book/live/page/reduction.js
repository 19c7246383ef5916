// Reduction: what SE adds to ResNet-50, by reduction ratio and stage.

function buildReduction(root, data, say, result) {
  const { base, statistics, ratios, stages, table10, table13, none } = data;
  const on = stages.map(() => true);
  let r = 16;

  // Each block has two matrices of C by C/r: N blocks add 2/r N C^2.
  const adds = (stage, ratio) => (2 * stage.blocks * stage.channels ** 2) / ratio;
  const added = (ratio) => stages.reduce(
    (sum, stage, i) => sum + (on[i] ? adds(stage, ratio) : 0), 0);
  const million = (n, digits = 2) => (n / 1e6).toFixed(digits);

  // What the paper prints for this choice, if it does.
  function printed(ratio) {
    const chosen = stages.filter((_, i) => on[i]).map((stage) => stage.name);
    if (chosen.length === 0) return { value: none, where: "Table 10, original" };
    if (chosen.length === stages.length) {
      return { value: table10[ratio], where: `Table 10, r = ${ratio}` };
    }
    if (chosen.length === 1 && ratio === 16 && chosen[0] in table13) {
      return { value: table13[chosen[0]], where: `Table 13, ${chosen[0]}` };
    }
    return null;
  }

  const SCALE = 46e6, LEFT = 54, RIGHT = 128, HEAD = 20;
  const graph = canvas({ role: "img", "aria-label": "" }, (context, w, h, colour) => {
    const line = (h - HEAD) / ratios.length;
    const long = (n) => ((w - LEFT - RIGHT) * n) / SCALE;
    const write = (text, x, y, align, weight, paint) => {
      context.font = `${weight} 13px system-ui, sans-serif`;
      context.fillStyle = colour(paint);
      context.textAlign = align;
      context.fillText(text, x, y);
    };
    context.textBaseline = "middle";
    write("counted", w - 58, HEAD / 2, "right", 400, "muted");
    write("printed", w, HEAD / 2, "right", 400, "muted");
    ratios.forEach((ratio, row) => {
      const now = ratio === r, middle = HEAD + (row + 0.5) * line, high = now ? 24 : 12;
      const y = Math.round(middle - high / 2);
      let x = LEFT;
      const piece = (n, paint) => {
        context.fillStyle = paint;
        context.fillRect(x, y, long(n), high);
        x += long(n);
      };
      piece(base, colour("line"));
      stages.forEach((stage, i) => {
        if (on[i]) piece(adds(stage, ratio), colour(`tone${i + 2}`));
      });
      const paper = printed(ratio);
      if (paper) {
        context.fillStyle = colour("ink");
        context.fillRect(LEFT + long(1e6 * paper.value) - 1, y - 4, 2, high + 8);
      }
      const [weight, paint] = now ? [650, "ink"] : [400, "muted"];
      write(`r = ${ratio}`, 0, middle, "left", weight, paint);
      write(`${million(base + added(ratio))} M`, w - 58, middle, "right",
        weight, paint);
      write(paper ? `${paper.value.toFixed(1)} M` : "\u2013", w, middle, "right",
        weight, paint);
      if (now && long(base) > 80) write("ResNet-50", LEFT + 8, middle, "left", 400, "ink");
    });
  });

  const rows = stages.map((stage, i) => {
    const number = el("td"), share = el("td");
    const input = el("input", { type: "checkbox", checked: true, onchange: () => {
      on[i] = input.checked;
      render();
      tell();
    } });
    return { number, share, node: el("tr", {},
      el("th", { scope: "row" }, el("label", {}, input, el("span", { class: "swatch",
        style: `background: var(--tone${i + 2})` }), stage.name.replace("_", " "))),
      el("td", { class: "wide" }, String(stage.blocks)),
      el("td", { class: "wide" }, String(stage.channels)), number, share) };
  });
  const sum = el("td"), whole = el("td");
  const formula = el("span"), count = el("small");

  function render() {
    const extra = added(r), total = base + extra, paper = printed(r);
    rows.forEach(({ number, share, node }, i) => {
      const n = on[i] ? adds(stages[i], r) : 0;
      number.textContent = grouped(n);
      share.textContent = extra ? `${((100 * n) / extra).toFixed(1)} %` : "\u2013";
      node.classList.toggle("off", !on[i]);
    });
    sum.textContent = grouped(extra);
    whole.textContent = extra ? "100 %" : "\u2013";
    const terms = stages.filter((_, i) => on[i])
      .map((stage) => `${stage.blocks}\u00b7${stage.channels}\u00b2`);
    formula.textContent = "2/r \u00b7 \u03a3 N C\u00b2 = " +
      (terms.length ? `2/${r} \u00b7 (${terms.join(" + ")}) = ` : "") + grouped(extra);
    count.textContent = `${grouped(base)} + ${grouped(extra)} = ${grouped(total)} ` +
      "parameters";
    graph.node.setAttribute("aria-label", "Parameters in all, by reduction ratio: " +
      ratios.map((ratio) => `r ${ratio}, ${million(base + added(ratio))} M`).join("; "));
    graph.redraw();
    Object.assign(root.dataset, { r, added: extra, total,
      stages: stages.filter((_, i) => on[i]).map((stage) => stage.name).join(" "),
      byStage: JSON.stringify(stages.map((stage, i) => (on[i] ? adds(stage, r) : 0))),
      printed: paper ? paper.value : "none" });
  }
  function tell() {
    const total = base + added(r), paper = printed(r), counted = total + statistics;
    const ours = `${million(total)} M parameters at r = ${r}`;
    if (!paper) {
      say(`${ours}. The paper prints no value for this choice.`);
      return;
    }
    const same = (n) => million(n, 1) === paper.value.toFixed(1);
    const reason = same(total) ? "the same, rounded"
      : same(counted) ? `ours with BatchNorm's ${grouped(statistics)} running ` +
        `statistics counted, ${million(counted)} M`
      : `neither ours nor, with BatchNorm's ${grouped(statistics)} running ` +
        `statistics counted, ${million(counted)} M`;
    say(`${ours}. The paper prints ${paper.value.toFixed(1)} M (${paper.where}): ` +
      `${reason}.`);
  }

  render();
  tell();
  const control = slider("Reduction ratio r =", { min: 0, max: ratios.length - 1,
    step: 1, value: ratios.indexOf(r), words: (i) => String(ratios[i]) }, (i) => {
    r = ratios[i];
    render();
    tell();
  });
  control.append(el("div", { class: "ticks", "aria-hidden": true },
    ...ratios.map((ratio) => el("span", {}, String(ratio)))));
  const heads = [["SE in", ""], ["blocks N", "wide"], ["channels C", "wide"],
    ["parameters", ""], ["share", ""]];
  const nodes = [
    el("div", { class: "controls" }, control),
    el("div", { class: "reduction" }, el("div", {}, el("span", { class: "name" },
      "Parameters in all (mark: as the paper prints it)"), graph.node)),
    el("table", { class: "reduction-table" },
      el("thead", {}, el("tr", {}, ...heads.map(([text, kind]) =>
        el("th", { scope: "col", class: kind }, text)))),
      el("tbody", {}, ...rows.map((row) => row.node)),
      el("tfoot", {}, el("tr", {}, el("th", { scope: "row" }, "added by SE"),
        el("td", { class: "wide" }), el("td", { class: "wide" }), sum, whole))),
    el("p", { class: "formula" }, formula, count),
    result,
  ];
  return {
    nodes, redraw: render,
    hint: "Choose r and the stages whose blocks get SE: two matrices of C by C/r in " +
      "each block.",
    keys: "Keyboard: Tab to the slider or a stage; arrows change r, Space switches " +
      "a stage.",
  };
}

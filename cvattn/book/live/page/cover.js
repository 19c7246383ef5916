// Cover: which silent faults go home undetected by the tests that you run.

function buildCover(root, data, say, result) {
  const { tests, ids, names, found } = data, ALL = tests.length;
  let sizes = "trap", chosen = new Set([0]), numbers = true;

  const finds = (row, test) => found[sizes][row][test] === "x";
  const applies = (row, test) => found[sizes][row][test] !== "-";
  const missed = (set) => ids.map((_, row) => row).filter((row) =>
    ![...set].some((test) => finds(row, test)));
  const VALUE = tests.indexOf("value");

  // Of all choices of k tests the one that misses fewest; of equals the first.
  function best(k) {
    let least = Infinity, pick = null;
    for (let bits = 0; bits < 2 ** ALL; bits++) {
      const set = tests.map((_, t) => t).filter((t) => bits & (2 ** t));
      if (set.length !== k || (!numbers && set.includes(VALUE))) continue;
      const left = missed(set).length;
      if (left < least) [least, pick] = [left, set];
    }
    return new Set(pick);
  }

  const buttons = tests.map((name, t) => button(name, () => {
    if (!chosen.delete(t)) chosen.add(t);
    render();
    tell();
  }));
  const rows = ids.map((id, row) => {
    const cells = tests.map(() => el("td"));
    const verdict = el("td", { class: "verdict" });
    return { cells, verdict, node: el("tr", {}, el("th", { scope: "row" }, id,
      names[row] ? el("small", {}, " " + names[row]) : ""), ...cells,
      verdict) };
  });
  const heads = tests.map((name) => el("th", { scope: "col" }, el("span", {}, name)));
  const count = el("b"), counted = el("p", { class: "count" }, count);

  function render() {
    const left = missed(chosen);
    buttons.forEach((node, t) => {
      node.disabled = !numbers && t === VALUE;
      node.setAttribute("aria-pressed", chosen.has(t));
    });
    heads.forEach((node, t) => node.classList.toggle("on", chosen.has(t)));
    rows.forEach(({ cells, verdict, node }, row) => {
      node.classList.toggle("missed", left.includes(row));
      verdict.textContent = !left.includes(row) ? ""
        : tests.some((_, t) => finds(row, t)) ? "missed" : "missed (no test finds it)";
      cells.forEach((cell, t) => {
        const [mark, words] = !applies(row, t) ? ["\u2013", "does not apply"]
          : !finds(row, t) ? ["", "passes"]
          : chosen.has(t) ? ["\u25cf", "found"] : ["\u25cb", "would be found"];
        cell.className = mark === "\u25cf" ? "on" : "";
        cell.replaceChildren(el("span", { "aria-hidden": true }, mark),
          el("span", { class: "spoken" }, words));
      });
    });
    count.textContent = `${left.length} of ${ids.length}`;
    counted.replaceChildren(count, " go home undetected");
    const input = control.querySelector("input");
    input.max = numbers ? ALL : ALL - 1;
    input.value = control.querySelector("b").textContent = chosen.size;
    input.setAttribute("aria-valuetext", chosen.size);
    Object.assign(root.dataset, { sizes, missed: JSON.stringify(left.map((r) => ids[r])),
      chosen: JSON.stringify(tests.filter((_, t) => chosen.has(t))) });
  }
  function tell() {
    const left = missed(chosen).map((row) => ids[row]);
    const run = tests.filter((_, t) => chosen.has(t));
    say(`You run ${run.length ? run.join(", ") : "no test"}: ${ids.length - left.length} ` +
      `of ${ids.length} are found.` + (left.length && left.length < 12
      ? ` Undetected: ${left.join(", ")}.` : ""));
  }
  const control = slider("Number of tests; slide for the best choice:", { min: 0, max: ALL,
    step: 1, value: 1, words: String }, (k) => {
    chosen = best(k);
    render();
    tell();
  });
  const own = button("I have right numbers to compare with", () => {
    numbers = !numbers;
    own.setAttribute("aria-pressed", numbers);
    if (!numbers) chosen.delete(VALUE);
    render();
    tell();
  }, { "aria-pressed": true });

  render();
  tell();
  const nodes = [
    el("div", { class: "picks", role: "group", "aria-label": "Tests to run" },
      ...buttons),
    el("div", { class: "controls" }, control, own),
    choice("Examined at", root.id + "-sizes", [["trap", "the sizes that hide it"],
      ["apart", "sizes all different"]], sizes, (value) => {
      sizes = value;
      render();
      tell();
    }),
    counted, result,
    el("table", { class: "cover" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "fault"), ...heads,
        el("td"))),
      el("tbody", {}, ...rows.map((row) => row.node))),
  ];
  return {
    nodes, redraw: render,
    hint: "Choose the tests that you run on each module. Full: found; open: a test that " +
      "you do not run would find it.",
    keys: "Keyboard: Tab to a test and press Space; arrows move the slider.",
  };
}

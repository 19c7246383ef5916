// Warp: the six numbers of an affine map by hand, one pixel's weights, and gradients.

const IDENTITY = [1, 0, 0, 0, 1, 0];

// The mean square distance of what is read to the picture, and its slopes along theta.
function distance(U, size, theta) {
  const gradient = [0, 0, 0, 0, 0, 0], n = size * size;
  let loss = 0;
  const V = resample(U, size, theta, (found, row, column) => {
    const away = found.V - U[row * size + column];
    const target = [centre(column, size), centre(row, size), 1];
    loss += (away * away) / n;
    gradient.forEach((_, k) => {
      const slope = (found.slope[Math.floor(k / 3)] * size) / 2;
      gradient[k] += ((2 * away) / n) * slope * target[k % 3];
    });
  });
  return { V, loss, gradient };
}

// An arrow with a rim, so that it is seen on black, on white and on the picture.
function arrow(context, [x0, y0], [x1, y1], colour, rim) {
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (length < 5) return;
  const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length], head = Math.min(10, length);
  const [bx, by] = [x1 - head * ux, y1 - head * uy];
  for (const [tone, extra] of [[rim, 3], [colour, 0]]) {
    context.strokeStyle = context.fillStyle = tone;
    context.lineJoin = "round";
    context.lineWidth = 2.5 + extra;
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(bx, by);
    context.stroke();
    context.lineWidth = extra || 0.5;
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(bx - (head / 2) * uy, by + (head / 2) * ux);
    context.lineTo(bx + (head / 2) * uy, by - (head / 2) * ux);
    context.closePath();
    context.stroke();
    context.fill();
  }
}

function buildWarp(root, data, say, result) {
  const { names, size, world, rate, steps } = data, pixels = decode(data.pictures);
  const state = { picture: 0, theta: [...data.theta], row: 9, column: 11 };
  let U, out, found, sliders, held = null, offset;

  function load() {
    U = Array.from(pixels.subarray(state.picture * size * size,
      (state.picture + 1) * size * size), (byte) => byte / 255);
  }
  // The handles: the middle of the grid, and the middles of its right and lower side.
  const handles = () => {
    const [a, b, x, c, d, y] = state.theta;
    return [[x, y], [x + a, y + c], [x + b, y + d]];
  };
  const PAIRS = [[2, 5], [0, 3], [1, 4]];

  const source = canvas({ class: "view source", role: "img", "aria-label": "" },
    (context, w, h, colour) => {
      const at = ([x, y]) => [((x + world) / (2 * world)) * w,
        ((y + world) / (2 * world)) * h];
      const [left] = at([-1, -1]), side = w / world, cell = side / size;
      context.fillStyle = colour("quiet");
      context.fillRect(0, 0, w, h);
      inset(context, left, side, size, (i) => grey(255 * U[i]));
      context.fillStyle = colour("space");
      for (let row = 0; row < size; row += 3) {
        for (let column = 0; column < size; column += 3) {
          const [x, y] = at(placeOf(state.theta, row, column, size));
          context.fillRect(x - 1.5, y - 1.5, 3, 3);
        }
      }
      drawFrame(context, frameOf(state.theta).map(at), colour("space"));
      // The four pixels of the chosen one, by weight.
      for (const { row, column, weight } of found.four) {
        context.globalAlpha = 0.25 + 0.75 * weight;
        context.lineWidth = 1 + 3 * weight;
        context.strokeStyle = colour("channel");
        context.strokeRect(left + column * cell, left + row * cell, cell, cell);
      }
      context.globalAlpha = 1;
      const here = [left + (found.x + 0.5) * cell, left + (found.y + 0.5) * cell];
      const steep = Math.hypot(...found.slope), reach = steep && Math.min(150, 60 / steep);
      arrow(context, here, here.map((v, i) => v + found.slope[i] * reach),
        colour("channel"), colour("paper"));
      handles().forEach((place, k) => {
        const [x, y] = at(place), pull = PAIRS[k].map((i) => -out.gradient[i]);
        const long = Math.hypot(...pull), scale = long && (Math.min(long, 0.3) / long) * 240;
        arrow(context, [x, y], [x + pull[0] * scale, y + pull[1] * scale],
          colour("ink"), colour("paper"));
        context.beginPath();
        context.arc(x, y, 8, 0, 2 * Math.PI);
        context.fillStyle = colour("paper");
        context.fill();
        context.lineWidth = 3;
        context.strokeStyle = colour("space");
        context.stroke();
      });
    });
  const target = canvas({ class: "view target", tabindex: 0, role: "application",
    "aria-roledescription": "picture",
    "aria-label": "The result: arrows choose an output pixel" },
  (context, w, h, colour) => {
    cells(context, w, size, (i) => grey(255 * out.V[i]));
    const cell = w / size;
    context.lineWidth = 3;
    context.strokeStyle = colour("channel");
    context.strokeRect(state.column * cell - 1, state.row * cell - 1, cell + 2, cell + 2);
  });
  const where = el("b"), total = el("b"), lossOf = el("b");
  const rows = [0, 1, 2, 3].map(() => Array.from({ length: 4 }, () => el("td")));
  const slopes = el("b");
  const table = el("table", {}, el("caption", {}, where), el("thead", {}, el("tr", {},
    ...["pixel", "value", "weight", "product"].map((name) =>
      el("th", { scope: "col" }, name)))),
  el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row))));

  function render() {
    out = distance(U, size, state.theta);
    const place = placeOf(state.theta, state.row, state.column, size);
    found = readAt(U, size, place);
    where.textContent = `Output pixel (${state.row}, ${state.column}) reads at row ` +
      `${fixed(found.y, 2)}, column ${fixed(found.x, 2)}`;
    found.four.forEach(({ row, column, weight, value }, i) => {
      [`${fixed(row, 0)}, ${fixed(column, 0)}`, fixed(value, 3), fixed(weight, 3),
        fixed(weight * value, 3)].forEach((text, k) => { rows[i][k].textContent = text; });
    });
    total.textContent = `V = ${fixed(found.V, 3)}`;
    slopes.textContent = `${signed(found.slope[0], 3)} along x, ` +
      `${signed(found.slope[1], 3)} along y`;
    lossOf.textContent = out.loss.toFixed(4);
    source.node.setAttribute("aria-label", `${names[state.picture]} with the grid of ` +
      `theta ${state.theta.map((v) => fixed(v, 2)).join(", ")}`);
    source.redraw();
    target.redraw();
    Object.assign(root.dataset, { picture: state.picture, row: state.row,
      column: state.column, theta: JSON.stringify(state.theta),
      v: JSON.stringify(Array.from(out.V)), loss: out.loss,
      gradient: JSON.stringify(out.gradient), found: JSON.stringify(found) });
  }
  function tell() {
    say(`\u03b8 = (${state.theta.map((v) => fixed(v, 2)).join(", ")}); loss ` +
      `${out.loss.toFixed(4)}. ${where.textContent}, ${total.textContent}.`);
  }
  function put(theta) {
    theta.forEach((v, k) => {
      state.theta[k] = clamp(v, -2, 2);
      const input = sliders[k].querySelector("input");
      input.value = state.theta[k];
      const text = fixed(state.theta[k], 2);
      input.setAttribute("aria-valuetext", text);
      sliders[k].querySelector("b").textContent = text;
    });
    render();
  }
  function descend() {
    // Where a step would lead uphill, the rate is halved.
    let { theta } = state, here = out, step = rate;
    for (let i = 0; i < steps && step > rate / 1000;) {
      const next = theta.map((v, k) => v - step * here.gradient[k]);
      const there = distance(U, size, next);
      if (there.loss > here.loss) step /= 2;
      else [theta, here, i] = [next, there, i + 1];
    }
    put(theta);
    tell();
  }
  sliders = ["11", "12", "13", "21", "22", "23"].map((name, k) =>
    slider(`\u03b8${name} =`, { min: -2, max: 2, step: 0.01, value: state.theta[k],
      words: (v) => fixed(v, 2) }, (v) => {
      state.theta[k] = v;
      render();
      tell();
    }));
  const preset = (name, theta) => button(name, () => {
    put(theta);
    tell();
  });

  // On the input: drag the nearest handle.
  draggable(source.node, 1, (x, y, first) => {
    const place = [(2 * x - 1) * world, (2 * y - 1) * world];
    const all = handles();
    if (first) {
      const away = all.map((h) => Math.hypot(h[0] - place[0], h[1] - place[1]));
      held = Math.min(...away) < 0.3 ? away.indexOf(Math.min(...away)) : null;
      if (held !== null) offset = place.map((v, axis) => v - all[held][axis]);
    }
    if (held === null) return;
    const theta = [...state.theta], base = held ? all[0] : [0, 0];
    PAIRS[held].forEach((k, axis) => {
      theta[k] = Math.round((place[axis] - offset[axis] - base[axis]) * 100) / 100;
    });
    put(theta);
  }, tell);
  draggable(target.node, size, (x, y) => {
    Object.assign(state, { row: Math.floor(y * size), column: Math.floor(x * size) });
    render();
  }, tell);
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
    ArrowDown: [1, 0] };
  target.node.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    state.row = clamp(state.row + step[0], 0, size - 1);
    state.column = clamp(state.column + step[1], 0, size - 1);
    render();
    tell();
    event.preventDefault();
  });

  load();
  render();
  tell();
  const nodes = [
    el("div", { class: "controls" }, pictureChoice(root, names, pixels, (i) => {
      state.picture = i;
      load();
      render();
      tell();
    })),
    el("div", { class: "six" }, ...sliders),
    el("div", { class: "picks" }, preset("Identity", IDENTITY),
      preset("Zoom", [0.5, 0, 0, 0, 0.5, 0]),
      preset("Turn", [0.8, -0.6, 0, 0.6, 0.8, 0]),
      preset("Mirror", [-1, 0, 0, 0, 1, 0]), preset("Far off", [0.5, 0, 0.9, 0, 0.5, 0.2]),
      button("Descend", descend)),
    result,
    el("div", { class: "views" },
      el("div", {}, el("p", { class: "name" }, "the input, and where it is read"),
        source.node),
      el("div", {}, el("p", { class: "name" }, "the result"), target.node)),
    el("div", { class: "numbers" }, table, el("ul", {},
      el("li", {}, el("span", { class: "name" }, "sum of the products, Eq. 5"), total),
      el("li", {}, el("span", { class: "name" }, "slope of V in grey per pixel, Eq. 7"),
        slopes),
      el("li", {}, el("span", { class: "name" }, "loss, the mean of (V \u2212 U)\u00b2"),
        lossOf))),
  ];
  return { nodes, redraw: render,
    hint: "Drag the three rings, two numbers each. Blue: the chosen output pixel, the four " +
      "pixels that it reads, and where V grows. Arrows at the rings: \u2212\u2202L/\u2202\u03b8.",
    keys: "Keyboard: Tab to a slider, or to the result, and use the arrows." };
}

// What the live figures share: elements, controls, theme, canvases, numbers.

const ARRAYS = { float32: Float32Array, uint8: Uint8Array, int32: Int32Array };

function decode({ dtype, base64 }) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new ARRAYS[dtype](bytes.buffer);
}

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Numbers ------------------------------------------------------------------

const fixed = (x, digits) => {
  const text = Math.abs(x).toFixed(digits);
  return (x < 0 && Number(text) !== 0 ? "\u2212" : "") + text;
};
const signed = (x, digits) => (x >= 0 ? "+" : "") + fixed(x, digits);
const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const argmax = (list) => list.indexOf(Math.max(...list));

// The same numbers for the same seed on every machine (mulberry32).
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function permutation(n, seed) {
  const order = Array.from({ length: n }, (_, i) => i);
  const next = random(seed);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

// Controls -----------------------------------------------------------------

function button(text, onclick, attributes = {}) {
  return el("button", { type: "button", ...attributes, onclick }, text);
}

// One of several: native radio buttons in a fieldset, so arrows work. An option
// is [value, ...content of its label].
function choice(legend, name, options, picked, onpick, kind = "") {
  const picks = options.map(([value, ...content]) =>
    el("label", { class: "pick" },
      el("input", { type: "radio", name, value, checked: value === picked,
        onchange: () => onpick(value) }),
      el("span", {}, ...content)));
  return el("fieldset", {}, el("legend", {}, legend),
    el("div", { class: `picks ${kind}` }, ...picks));
}

// `words(value)` is what is written beside the name and what a reader speaks.
function slider(name, { min, max, step, value, words }, oninput) {
  const shown = el("b", {}, words(value));
  const input = el("input", { type: "range", min, max, step, value,
    "aria-label": name, "aria-valuetext": words(value) });
  input.addEventListener("input", () => {
    shown.textContent = words(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
    oninput(Number(input.value));
  });
  return el("div", { class: "slider" },
    el("span", { class: "name", "aria-hidden": true }, name + " ", shown), input);
}

// A bar from `from` to `to`, both 0..1 of its track, and a mark.
function bar() {
  const fill = el("i"), mark = el("i", { class: "notch" });
  const node = el("span", { class: "bar", "aria-hidden": true }, fill, mark);
  const set = (from, to, at) => {
    fill.style.left = 100 * Math.min(from, to) + "%";
    fill.style.width = 100 * Math.abs(to - from) + "%";
    mark.style.left = 100 * at + "%";
  };
  return { node, set };
}

// Canvases -----------------------------------------------------------------

// A canvas as large as its style says, sharp on every screen. `draw(context,
// width, height, colour)` works in CSS pixels; colour("channel") follows the theme.
function canvas(attributes, draw) {
  const node = el("canvas", attributes);
  const redraw = () => {
    const { clientWidth: w, clientHeight: h } = node;
    if (!w || !h) return;
    const dense = window.devicePixelRatio || 1;
    node.width = Math.round(w * dense);
    node.height = Math.round(h * dense);
    const context = node.getContext("2d");
    context.scale(node.width / w, node.height / h);
    const style = getComputedStyle(node);
    draw(context, w, h, (name) => style.getPropertyValue("--" + name).trim());
  };
  new ResizeObserver(redraw).observe(node);
  return { node, redraw };
}

// The colour t of the way from a to b, both "#rrggbb".
function mix(a, b, t) {
  const part = (i) => {
    const [x, y] = [a, b].map((hex) => parseInt(hex.slice(i, i + 2), 16));
    return Math.round(x + (y - x) * t);
  };
  return `rgb(${part(1)}, ${part(3)}, ${part(5)})`;
}

// Fill a grid of `size` x `size` cells; edges fall on whole screen pixels.
function cells(context, width, size, colourOf) {
  const dense = context.getTransform().a;
  const edge = (i) => Math.round((i * width * dense) / size) / dense;
  for (let i = 0; i < size * size; i++) {
    const x = edge(i % size), y = edge(Math.floor(i / size));
    context.fillStyle = colourOf(i);
    context.fillRect(x, y, edge((i % size) + 1) - x,
      edge(Math.floor(i / size) + 1) - y);
  }
}

// The choice of one of the pictures, each of 28 x 28 bytes, by name.
function pictureChoice(root, names, pixels, onpick) {
  const options = names.map((name, i) =>
    [i, picture(pixels.subarray(i * 784, (i + 1) * 784)).node, name]);
  return choice("Picture", root.id + "-picture", options, 0, onpick, "even");
}

// A picture of 28 x 28 grey values, white cloth on black, as in the data.
function picture(pixels, attributes = { "aria-hidden": true }) {
  return canvas(attributes, (context, w) => cells(context, w, 28,
    (i) => `rgb(${pixels[i]}, ${pixels[i]}, ${pixels[i]})`));
}

// Call `touch(x, y, first)` with positions in 0..1 of the canvas for a press and
// for each step of the drag after it, with no gap however fast it is; `end()` last.
function draggable(node, steps, touch, end) {
  let last = null;
  const place = (event) => {
    const box = node.getBoundingClientRect();
    return [clamp((event.clientX - box.left) / box.width, 0, 0.9999),
      clamp((event.clientY - box.top) / box.height, 0, 0.9999)];
  };
  node.style.touchAction = "none";
  node.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    node.setPointerCapture(event.pointerId);
    last = place(event);
    touch(...last, true);
  });
  node.addEventListener("pointermove", (event) => {
    if (!last) return;
    const [x, y] = place(event), [x0, y0] = last;
    const n = Math.ceil(steps * Math.max(Math.abs(x - x0), Math.abs(y - y0))) || 1;
    for (let i = 1; i <= n; i++) {
      touch(x0 + ((x - x0) * i) / n, y0 + ((y - y0) * i) / n, false);
    }
    last = [x, y];
  });
  for (const type of ["pointerup", "pointercancel"]) {
    node.addEventListener(type, () => {
      if (last) end();
      last = null;
    });
  }
}

// Theme and start ----------------------------------------------------------

// The page's own word first (the book, Colab, JupyterLab), then the system's.
function followTheme(root, redraw) {
  const page = document.documentElement;
  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const wanted = () => {
    const word = page.dataset.theme || page.getAttribute("theme");
    if (word === "dark" || word === "light") return word;
    const lab = document.body.dataset.jpThemeLight;
    if (lab) return lab === "false" ? "dark" : "light";
    return night.matches ? "dark" : "light";
  };
  const watch = new MutationObserver(update);
  function update() {
    if (!root.isConnected) {
      watch.disconnect();
      night.removeEventListener("change", update);
    } else if (root.dataset.theme !== wanted()) {
      root.dataset.theme = wanted();
      redraw();
    }
  }
  watch.observe(page, { attributeFilter: ["data-theme", "theme"] });
  watch.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  night.addEventListener("change", update);
  update();
}

// Bring every figure of this name that still shows its picture to life. `build`
// returns the nodes to show, `result` (the spoken sentence, set by `say`) among them,
// and a function that draws them anew; should it fail, the picture stays.
function start(name, title, data, build) {
  const waiting = `.cvattn-live[data-figure="${name}"]:not([data-live])`;
  for (const root of document.querySelectorAll(waiting)) {
    root.dataset.live = "true";
    const id = root.id;
    for (let n = 2; document.getElementById(root.id) !== root; n++) {
      root.id = `${id}-${n}`;
    }
    const result = el("output", { "aria-live": "polite" });
    const say = (sentence) => {
      if (result.textContent !== sentence) result.textContent = sentence;
    };
    const { nodes, redraw, hint, keys } = build(root, data, say, result);
    root.querySelector(".fallback").replaceWith(el("div", { class: "stage" },
      el("div", { class: "head" }, el("p", { class: "title" }, title),
        el("p", { class: "hint" }, hint)),
      ...nodes, el("p", { class: "keys" }, keys)));
    followTheme(root, redraw);
    redraw();
  }
}

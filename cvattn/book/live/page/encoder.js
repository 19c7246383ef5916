// A small Vision Transformer that runs in the page; shared by `looks` and `shuffle`.

// erf by its series, good to 1e-15 wherever it is not 1.
function erf(x) {
  if (Math.abs(x) > 5.9) return Math.sign(x);
  let term = x, sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum) && n < 200; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}
const gelu = (x) => 0.5 * x * (1 + erf(x / Math.SQRT2));

class Vit {
  constructor({ matrices, vectors, whole, scales, numbers, dim, heads, layers, patch,
    mean, std }) {
    const q = new Int8Array(decode(whole).buffer), s = decode(scales), v = decode(numbers);
    this.w = {};
    let at = 0, row = 0, from = 0;
    for (const [name, height, width] of matrices) {
      this.w[name] = Float64Array.from({ length: height * width },
        (_, i) => q[at + i] * s[row + Math.floor(i / width)]);
      at += height * width;
      row += height;
    }
    for (const [name, size] of vectors) this.w[name] = v.subarray(from, from += size);
    Object.assign(this, { D: dim, heads, layers, P: patch, mean, std });
    this.side = 28 / patch;
    this.N = this.side ** 2;
  }

  // The pixels of patch n, row by row.
  patch(pixels, n) {
    const { P, side } = this, top = Math.floor(n / side) * P, left = (n % side) * P;
    return Float64Array.from({ length: P * P }, (_, i) =>
      (pixels[(top + Math.floor(i / P)) * 28 + left + (i % P)] / 255 - this.mean) / this.std);
  }

  // Place n shows patch order[n], and has the row `places[n]` of E_pos (-1: none).
  embed(pixels, order, places) {
    const { D, w } = this, pos = w.E_pos;
    const words = linear(order.map((n) => this.patch(pixels, n)), w["E.weight"], w["E.bias"]);
    return [Float64Array.from(w.x_class, (v, i) => v + pos[i]),
      ...words.map((row, n) => (places[n] < 0 ? row
        : row.map((v, i) => v + pos[(1 + places[n]) * D + i])))];
  }

  // Attention of layer l, one map for each head; returns [result, maps].
  attend(l, x) {
    const name = `layers.${l}.attention.W_`, d = this.D / this.heads;
    const [Q, K, V] = ["Q", "K", "V"].map((letter) =>
      linear(x, this.w[`${name}${letter}.weight`], this.w[`${name}${letter}.bias`]));
    const Y = x.map(() => new Float64Array(this.D)), maps = [];
    for (let h = 0; h < this.heads; h++) {
      maps.push(Q.map((q, n) => {
        const p = softmax(K.map((k) => {
          let sum = 0;
          for (let i = h * d; i < (h + 1) * d; i++) sum += q[i] * k[i];
          return sum / Math.sqrt(d);
        }));
        p.forEach((share, m) => {
          for (let i = h * d; i < (h + 1) * d; i++) Y[n][i] += share * V[m][i];
        });
        return p;
      }));
    }
    return [linear(Y, this.w[`${name}O.weight`], this.w[`${name}O.bias`]), maps];
  }

  run(pixels, order, places) {
    const { w } = this, weights = [];
    const norm = (name, x) => layerNorm(x, w[`${name}.weight`],
      w[`${name}.bias`], 1e-6);
    let z = this.embed(pixels, order, places);
    for (let l = 0; l < this.layers; l++) {
      const name = `layers.${l}`, f = `${name}.feed_forward`;
      const [seen, maps] = this.attend(l, norm(`${name}.norm1`, z));
      weights.push(maps);
      z = added(z, seen);
      const hidden = linear(norm(`${name}.norm2`, z), w[`${f}.W1.weight`], w[`${f}.W1.bias`]);
      z = added(z, linear(hidden.map((row) => row.map(gelu)),
        w[`${f}.W2.weight`], w[`${f}.W2.bias`]));
    }
    const [logits] = linear(norm("norm", z.slice(0, 1)), w["head.weight"], w["head.bias"]);
    return { logits: [...logits], probabilities: softmax([...logits]), weights };
  }
}

// Layers of a Transformer on rows of numbers, for the networks that run in the page.

// Rows of x times the transpose of W (out, in), as nn.Linear stores it, plus b.
function linear(x, W, b) {
  const inputs = x[0].length, outputs = W.length / inputs;
  return x.map((row) => Float64Array.from({ length: outputs }, (_, o) => {
    let sum = b ? b[o] : 0;
    for (let i = 0; i < inputs; i++) sum += row[i] * W[o * inputs + i];
    return sum;
  }));
}

const added = (x, y) => x.map((row, n) => row.map((value, i) => value + y[n][i]));

function layerNorm(x, w, b, eps) {
  return x.map((row) => {
    const mean = row.reduce((s, v) => s + v, 0) / row.length;
    const variance = row.reduce((s, v) => s + (v - mean) ** 2, 0) / row.length;
    const scale = 1 / Math.sqrt(variance + eps);
    return row.map((v, i) => (v - mean) * scale * w[i] + b[i]);
  });
}

function softmax(a) {
  const top = Math.max(...a), e = a.map((v) => Math.exp(v - top));
  const total = e.reduce((s, v) => s + v, 0);
  return e.map((v) => v / total);
}

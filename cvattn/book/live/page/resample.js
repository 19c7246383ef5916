// Resample: the affine grid and the bilinear sampler of cvattn.stn, with their slopes.

// Where the n pixel centres of a row lie in -1..1, whose ends are the outer edges.
const centre = (i, n) => (2 * i + 1 - n) / n;

// Eq. 1 for theta, six numbers row by row: the place of output pixel (row, column).
function placeOf(theta, row, column, size) {
  const xt = centre(column, size), yt = centre(row, size);
  return [theta[0] * xt + (theta[1] * yt + theta[2]),
    theta[3] * xt + (theta[4] * yt + theta[5])];
}

// Eqs. 5 and 7 at a place: the four pixels around it with their weights, the sum, and
// its slopes along x and y in pixels. Outside of the picture there are zeros. At a pixel
// centre, whatever its rounding, the slopes are those towards the right and down.
function readAt(U, size, [xs, ys]) {
  const x = ((xs + 1) * size - 1) / 2, y = ((ys + 1) * size - 1) / 2;
  const m = Math.floor(x + 1e-9), n = Math.floor(y + 1e-9), dx = x - m, dy = y - n;
  const at = (row, column) => (row >= 0 && row < size && column >= 0 && column < size
    ? U[row * size + column] : 0);
  const four = [[n, m, (1 - dx) * (1 - dy)], [n, m + 1, dx * (1 - dy)],
    [n + 1, m, (1 - dx) * dy], [n + 1, m + 1, dx * dy]].map(([row, column, weight]) =>
    ({ row, column, weight, value: at(row, column) }));
  const [a, b, c, d] = four.map(({ value }) => value);
  return { x, y, four, V: four.reduce((sum, { weight, value }) => sum + weight * value, 0),
    slope: [(b - a) * (1 - dy) + (d - c) * dy, (c - a) * (1 - dx) + (d - b) * dx] };
}

// Read U at every place of theta's grid; call `each` with what was read.
function resample(U, size, theta, each) {
  const V = new Float64Array(size * size);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const found = readAt(U, size, placeOf(theta, row, column, size));
      V[row * size + column] = found.V;
      if (each) each(found, row, column);
    }
  }
  return V;
}

// The corners of theta's grid, from the upper left one clockwise.
const frameOf = (theta) => [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([x, y]) =>
  [theta[0] * x + theta[1] * y + theta[2], theta[3] * x + theta[4] * y + theta[5]]);

// Draw a frame; its first side, the top of what is read, is thick.
function drawFrame(context, corners, colour, dashed) {
  context.strokeStyle = colour;
  context.setLineDash(dashed ? [5, 5] : []);
  context.lineWidth = 2;
  context.beginPath();
  corners.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
  context.stroke();
  context.lineWidth = 5;
  context.beginPath();
  context.moveTo(...corners[0]);
  context.lineTo(...corners[1]);
  context.stroke();
  context.setLineDash([]);
}

// Cells from `left` on in both directions, without seams between them.
function inset(context, left, side, size, colourOf) {
  const dense = context.getTransform().a, edge = Math.round(left * dense) / dense;
  context.save();
  context.translate(edge, edge);
  cells(context, side, size, colourOf);
  context.restore();
}

const grey = (v) => {
  const byte = Math.round(clamp(v, 0, 255));
  return `rgb(${byte}, ${byte}, ${byte})`;
};

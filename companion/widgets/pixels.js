// Small pictures made of pixels.

// A canvas of side × side pixels, as large on the page as its place; with rendering "auto" its pixels are not seen.
export function pixels(side, name, rendering = "pixelated") {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: side, height: side });
  Object.entries({ role: "img", "aria-label": name }).forEach(([key, value]) => canvas.setAttribute(key, value));
  canvas.style = `display: block; width: 100%; aspect-ratio: 1; image-rendering: ${rendering}; border-radius: .25rem`;
  return canvas;
}

// Draws levels from 0 to 255, channel by channel: three of colour, or one of ink on white.
export function paint(canvas, levels) {
  const size = canvas.width * canvas.height;
  const image = new ImageData(canvas.width, canvas.height);
  for (let k = 0; k < size; k++)
    for (let c = 0; c < 4; c++) image.data[4 * k + c] = c === 3 ? 255 : levels.length > size ? levels[c * size + k] : 255 - levels[k];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The address of such a picture of side × side pixels.
export function address(side, levels) {
  const canvas = pixels(side, "");
  paint(canvas, levels);
  return canvas.toDataURL();
}

// The address of a picture of side × side places in one colour, "#rrggbb", each as strong as its value from 0 to 1; the
// first row is the lowest.
export function tint(side, values, colour) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: side, height: side });
  const image = new ImageData(side, side);
  values.forEach((value, k) => {
    const at = 4 * (side * (side - 1 - Math.floor(k / side)) + (k % side));
    for (let c = 0; c < 3; c++) image.data[at + c] = parseInt(colour.slice(2 * c + 1, 2 * c + 3), 16);
    image.data[at + 3] = 255 * value;
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.toDataURL();
}

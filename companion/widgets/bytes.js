// Numbers from the texts of a NAME_data.json: base64, as `packed` of tools/widget_data.py writes it.

// A byte each.
export const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Half-precision floats, two bytes each, the lower one first.
export function halves(text) {
  const raw = bytes(text);
  return Float64Array.from({ length: raw.length / 2 }, (_, k) => half(raw[2 * k] + 256 * raw[2 * k + 1]));
}

function half(word) {
  const [exponent, fraction] = [(word >> 10) & 31, word & 1023];
  const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
  return word & 0x8000 ? -size : size;
}

// Signs, a bit each, the highest one of a byte first.
export function signs(text) {
  const raw = bytes(text);
  return Int8Array.from({ length: 8 * raw.length }, (_, k) => ((raw[k >> 3] >> (7 - (k & 7))) & 1 ? 1 : -1));
}

// Numbers from 0 to 1, a byte each: how many parts of `most`.
export const levels = (text, most) => Float64Array.from(bytes(text), (v) => v / most);

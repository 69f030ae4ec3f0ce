// A photograph moved along signs, in whole colours: what tools/widget_data.py shows to the networks.
import { bytes, signs } from "./bytes.js";

// The colours of `photograph`, each moved by so many shades of 255 and kept in range: all red ones first, then green, blue.
export function moved(photograph, pattern, shades) {
  const [colours, way] = [bytes(photograph), signs(pattern)];
  return colours.map((colour, k) => Math.min(255, Math.max(0, colour + shades * way[k])));
}

// What the network says of it, and the fewest shades at which that is another label than at first; null if there are none.
export function answer({ networks, labels, classes }, { photograph, network, direction, shades }) {
  const row = networks[network][direction];
  const said = row.label[photograph];
  const first = said.findIndex((label) => label !== labels[photograph]);
  return {
    label: classes[said[shades]], fooled: said[shades] !== labels[photograph],
    sure: row.sure[photograph][shades], right: row.right[photograph], first: first < 0 ? null : first,
  };
}

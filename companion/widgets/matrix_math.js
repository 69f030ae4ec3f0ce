// The measured matrix of attacks and defences: accuracy[victim][threat][attack], distance likewise (null for ∞).

// What the strongest attack leaves, and its place.
export function strongest({ accuracy }, victim, threat) {
  const shares = accuracy[victim][threat];
  const share = Math.min(...shares);
  return { share, attack: shares.indexOf(share) };
}

// In how many cells most digits survive.
export const standing = ({ accuracy }, threat) => accuracy.flatMap((rows) => rows[threat]).filter((share) => share > 0.5).length;

// What happened to one of the example digits.
export function example({ labels, answers }, digit, [victim, threat, attack]) {
  const answer = answers[digit][victim][threat][attack];
  return { label: labels[digit], answer, fooled: answer !== labels[digit] };
}

/** The word someone probably meant. For messages: words are short, and there are few enough to look at each. */

/** Levenshtein distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** The one of `valid` that is fewest edits away from `word`, letter case aside; '' when there is none. */
export function nearest(word: string, valid: readonly string[]): string {
  const ranked = valid.map((name) => ({ name, away: distance(word.toLowerCase(), name.toLowerCase()) }));
  return ranked.sort((a, b) => a.away - b.away)[0]?.name ?? '';
}

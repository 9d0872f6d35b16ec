/**
 * Which records of a block fold has to leave. Pure.
 *
 * A record is live if
 *  1. some kept point reads it: it is the block's newest one up to the point's highest seq (its *mark*),
 *  2. it is above what points list: the next point will read it, or a layer that is not complete yet goes on above it, or
 *  3. the page map of a record that is live by 1 or 2 names it; where the map says zeros, the newest all-zero record below, for that is where they come
 *     from (an older record that is still there would otherwise show through when the index is made anew, `index-pages.ts`).
 *
 * Maps only ever name what the newest record names or is, so what is dead here is named by nothing that comes later. And who needs a record at one mark
 * needed it at every mark between: the first kept point with a mark at or above a record's seq reads the block through it, or nobody does.
 */

/** A record, as far as this has to know it. */
export interface Version {
  readonly seq: number;
  /** All zero. */
  readonly zero: boolean;
  /** Of a partial record: the seqs that hold its pages, null for zeros. */
  readonly pages: readonly (number | null)[] | null;
}

/**
 * Says for each version of one block whether it is live.
 * @param versions by seq, ascending.
 * @param marks ascending: the highest seqs of the disk that kept points read up to, the newest point's last.
 */
export function liveVersions(versions: readonly Version[], marks: readonly number[]): boolean[] {
  const newestMark = marks.at(-1) ?? 0;
  const live = new Array<boolean>(versions.length).fill(false);
  let mark = 0;
  let zero = -1;
  const needed = new Set<number>();
  versions.forEach((version, at) => {
    if (version.zero) zero = at;
    const next = versions[at + 1]?.seq ?? Infinity;
    while (mark < marks.length && (marks[mark] ?? Infinity) < version.seq) mark += 1;
    const isRead = (marks[mark] ?? -1) >= version.seq && (marks[mark] ?? Infinity) < next;
    if (!isRead && version.seq <= newestMark && next !== Infinity) return;
    live[at] = true;
    for (const seq of version.pages ?? []) {
      if (seq !== null) needed.add(seq);
      else if (zero >= 0) live[zero] = true;
    }
  });
  if (needed.size > 0) {
    versions.forEach(({ seq }, at) => {
      if (needed.has(seq)) live[at] = true;
    });
  }
  return live;
}

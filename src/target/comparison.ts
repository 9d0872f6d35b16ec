/**
 * The target's side of a comparison (PROTOCOL.md, "Comparing a disk"): checksums of a disk's working leaves, from the leaf file. No content is read,
 * no key is needed, nothing is remembered between two questions.
 *
 * Invariants:
 *  1. What is answered is what the target would compute the next root from. So a source that makes its leaves equal to these, and sends what differs,
 *     has a root that commits; one that was told anything else is caught by the root.
 *  2. Blocks whose stored bytes failed a check are not hidden and not altered here: their leaf says what they ought to hold. REPAIR names them, before
 *     the first answer, and the source sends them whole whatever the comparison says.
 *  3. Where records of committed points are missing, leaves are those of the records that are there: what such a block holds here is what its leaf says,
 *     so equal is equal.
 *  4. One answer in memory at a time, and the event loop turns after each slice of it: other machines have sessions here too.
 */
import type { Geometry } from '../disk/geometry.ts';
import { nodeCountOf } from '../disk/merkle.ts';
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { LeafFile } from '../store/leaf-file.ts';
import { encodeChecksums, type ChecksumBounds, type ChecksumRange } from '../wire/checksums.ts';

const { leafBytes, leavesPerNode } = limits.disk;
/** At most 1,024 nodes rehashed (32 MiB of leaves, 10 ms), or leaves read. */
const sliceMax = leavesPerNode;

export function boundsOf(geometry: Geometry): ChecksumBounds {
  return { leaves: geometry.blockCount, nodes: nodeCountOf(geometry) };
}

/** The CHECKSUMS frame that answers an ASK; `range` is on the disk. */
export async function answerAsk(
  disk: number,
  leaves: Pick<LeafFile, 'leavesOf' | 'nodesOf'>,
  range: ChecksumRange,
  clock: Clock,
): Promise<Uint8Array> {
  const { level, first, count } = range;
  const hashes = new Uint8Array(count * leafBytes);
  for (let done = 0; done < count; done += sliceMax) {
    if (done > 0) await clock.turn();
    const wanted = Math.min(sliceMax, count - done);
    const slice = level === 'nodes' ? leaves.nodesOf(first + done, wanted) : leaves.leavesOf(first + done, wanted);
    hashes.set(slice, done * leafBytes);
  }
  return encodeChecksums(disk, { level, first, count, hashes });
}

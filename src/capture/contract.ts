/**
 * Where changes come from. An agent drives every capture (`nbd`, `scan`; `qemu` later) through this contract alone.
 *
 * Per disk there are three sets of (block, page mask) (DESIGN §3): *current* (changed since the last swap), *sending* (being
 * read and sent now), *unacknowledged* (sent, not committed). Rules:
 *  1. Every change is in one of the three sets before the writer is told, and — through hot regions — durably known before the
 *     data is issued (C3). Sets are only forgotten by `forget`.
 *  2. `swap` moves current to sending. It can be done without a cut (pre-copy round: what is read may be newer than the
 *     swap, and then the block is in current again) or under a cut (`cutAll`): then `readBlocks` gives the content as of the
 *     cut, by copy-before-write of pages, until `endSending` or `giveUp`.
 *  3. `endSending` moves sending to unacknowledged; `forget` empties unacknowledged (after COMMITTED);
 *     `giveUp` merges sending and unacknowledged back into current. Failures downstream end in `giveUp`. `forgetSending` drops blocks whose
 *     content the agent's leaf file has durably taken over. Nothing else moves sets.
 *  4. A copy-before-write that can not keep an old page (bound hit, scratch error) voids the cut: `cutVoid` tells why, and
 *     readBlocks of a voided cut rejects with Problem `cut-void`. The writer never fails and never waits for it.
 */
import type { Geometry } from '../disk/geometry.ts';

/** Why the log can not vouch for what changed; leads to a resync (all blocks marked, compared by checksum). */
export type LogLoss = 'new' | 'lost' | 'damaged' | 'foreign' | 'changed-behind' | 'grown';

export interface CaptureDisk {
  readonly name: string;
  /** Changes only in a `beginCycle` that answers `grown`. */
  readonly geometry: Geometry;
  /**
   * How changes are known. `writes`: current fills as they happen. `scan`: nobody tells; at the start of each cycle the agent compares the whole
   * disk with what it knows the target has, and marks what differs.
   */
  readonly tracking: 'writes' | 'scan';
  /** What a cut of this disk can claim: `crash`, the content of one instant; `none`, content of several instants between `beginCycle` and its end. */
  readonly consistency: 'crash' | 'none';
  /** Where worker threads may read the content outside a cut, with its inode so that they find the same file; null: only through `readBlocks`. */
  readonly source: { readonly path: string; readonly inode: bigint } | null;
  /** Set when every block had to be marked at start, with the reason; null when the log was continued. */
  readonly logLoss: LogLoss | null;
  /** Dirty blocks in current. */
  readonly currentBlocks: number;
  /** Bytes in current, by page masks. */
  readonly currentBytes: number;
  /** Bytes that writes have added to current so far, by page masks; what is written again before it is swapped counts once. Not told by `scan`: 0. */
  readonly changedBytes: number;
  /** Bytes in the three sets together, by page masks: not yet in a committed point. What is in two of them counts twice. */
  readonly uncommittedBytes: number;
  /**
   * Looks at the source anew; to be called first in every cycle, with sending empty. `grown`: geometry is another one, and the new blocks are in current.
   * @throws Problem `not-found`, `bad-image` (both retryable), `shrunk`: nothing changed, the disk stays as it was known.
   */
  beginCycle(): Promise<'same' | 'grown'>;
  /** Rule 2 without a cut. Sending must be empty. Returns the number of blocks in sending. */
  swap(): number;
  /** Blocks of sending in ascending order with their page masks, from block `from`. */
  sending(from?: number): Iterable<readonly [block: number, mask: number]>;
  /**
   * Pages of `block` in current. After a `readBlocks` outside a cut the sender adds them to the mask it sends: a write that landed during
   * the read was marked at its issue, so mask and leaf then speak of the same content.
   */
  currentMask(block: number): number;
  /** Reads as many whole blocks as `into` holds, from `first` on (zero-padded past the end). In a cut: content as of the cut, only of sending; once per block. */
  readBlocks(first: number, into: Uint8Array): Promise<void>;
  /** Adds blocks to current by order of the target (repair, resync). */
  mark(block: number, mask: number): void;
  markAll(): void;
  /**
   * Outside a cut: blocks of sending in [from, to) leave it, because the leaf file durably says what was read of them. What was written since stays
   * in current. Resolves when the change log has followed; never rejects.
   */
  forgetSending(from: number, to: number): Promise<void>;
  /** @throws Problem `cut-void`: then `giveUp`. */
  endSending(): void;
  /** Memory has forgotten when this returns; the promise resolves when the log has, and never rejects. */
  forget(): Promise<void>;
  giveUp(): void;
  /** Why the present cut is void, or null. */
  readonly cutVoid: string | null;
  /** Why the change log was given up while running, or null: tracking goes on in memory, and a crash costs a comparison by checksum. */
  readonly logFailure: string | null;
  /** Write requests accepted so far (writes, zeroes, trims), counted in order of arrival. */
  readonly writesAccepted: number;
  /** Drains, persists the sets, marks the log clean. */
  close(): Promise<void>;
}

export interface CutReport {
  /** Wall clock at the instant all disks were still, milliseconds since the Unix epoch. */
  readonly cutTimeMs: number;
  /** How long writers were held, milliseconds. */
  readonly heldMs: number;
  /** Per disk in the order given: write requests included in the cut (see `writesAccepted`). */
  readonly writes: readonly number[];
}

/**
 * Cuts all disks at one instant: holds new writes on all, waits for those in flight, swaps current to sending on all, releases.
 * Resolves with `null` when the writes in flight did not drain within `drainMs`: nothing was swapped, all are released.
 */
export type CutAll = (disks: readonly CaptureDisk[], drainMs: number) => Promise<CutReport | null>;

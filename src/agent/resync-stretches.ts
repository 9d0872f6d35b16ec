/**
 * A resync that reads the disk does not wait for the end of the reading: what is hashed is compared, and what differs is sent, stretch by stretch,
 * while threads hash what comes next.
 *
 *   hashed   ├─ stretch ─┼─ stretch ─┼─ stretch ─┼─ …
 *   here                 ├ nodes, leaves, blocks ┼ nodes, leaves, blocks ┼ …
 *
 * Invariants:
 *  1. A stretch is compared when the survey has judged all of it, and once in a session; the survey does nothing meanwhile (`survey.ts`, 4). So the
 *     leaves that are compared are those of the source, and nothing is made durable between an answer and the last batch of what it named.
 *  2. Of a block that differs the leaf stays that of the source until it is sent (unlike in `compare.ts`, where the target's is laid). So whatever
 *     ends this, the leaf file says what the disk holds, no block has to be marked, and the next comparison finds what did not arrive.
 *  3. A block is read again to be sent. One that was written since the survey began is in *current* (`survey.ts`, 1): the next round looks at it again.
 *  4. Blocks ascend over all stretches: they are one layer.
 *  5. Memory: the target's leaves of the blocks that differ in one stretch.
 *
 * Rejected: a sender beside the survey. Leaves would be laid while others are made durable, and the connection could be lost between the two.
 */
import { nodeCountOf } from '../disk/merkle.ts';
import { limits } from '../limits.ts';
import { compareNodes, differingNodes } from './compare.ts';
import { LayerSender, type LayerResult, type SenderContext } from './sender.ts';

const { leavesPerNode } = limits.disk;

export class ResyncStretches {
  readonly #context: Omit<SenderContext, 'underCut'>;
  readonly #sender: LayerSender;
  readonly #nodeCount: number;
  /** Nodes in a stretch. */
  readonly #length: number;
  /** All nodes below were compared, and what differs in them sent. */
  #doneTo = 0;

  constructor(context: Omit<SenderContext, 'underCut'>) {
    const { geometry } = context.disk.leaves;
    this.#context = context;
    this.#sender = new LayerSender({ ...context, underCut: false });
    this.#nodeCount = nodeCountOf(geometry);
    this.#length = Math.max(1, Math.floor(limits.agent.resyncStretchBytes / (leavesPerNode * geometry.blockSize)));
  }

  /** The leaves of all blocks below `end` are those of the source. Rejects when the session ends, and with what reading the disk threw. */
  async hashedTo(end: number): Promise<void> {
    const whole = Math.floor(end / leavesPerNode);
    if (whole - this.#doneTo >= this.#length) await this.#compareTo(whole);
  }

  /** The leaves of all blocks are: what differs of the rest is sent, and the disk need not be compared any more. */
  async finish(): Promise<LayerResult> {
    await this.#compareTo(this.#nodeCount);
    this.#context.disk.comparisonDue = false;
    return this.#sender.result;
  }

  async #compareTo(end: number): Promise<void> {
    const nodes = await differingNodes(this.#context, { first: this.#doneTo, end });
    for (let at = 0; at < nodes.length; at += this.#length) {
      const differing = new Map<number, Uint8Array>();
      const differs = (block: number, leaf: Uint8Array): unknown => differing.set(block, Uint8Array.from(leaf));
      await compareNodes({ ...this.#context, differs }, nodes.slice(at, at + this.#length));
      await this.#sender.sendAhead(differing);
    }
    this.#doneTo = end;
  }
}

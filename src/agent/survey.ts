/**
 * The survey: blocks that are marked though they may well be unchanged (a lost log, a lost leaf file, a request) are read and hashed beside the
 * sender, and what the leaf file says of them becomes true again without the target.
 *
 * Leaves as of a committed point stay as they are: a block that is what its leaf says is forgotten by the log, any other stays marked, to be
 * sent. Leaves as of no point take over what was read, and the log forgets all; the comparison finds what the target lacks.
 *
 * Invariants:
 *  1. A write during the read was marked in *current* at its issue, so the block is in the log again and a leaf of the middle of a write does no harm.
 *  2. What was hashed is made durable every `checkpointBytes` or `checkpointMs`, and at the end of the session: it is not hashed again.
 *  3. At most `width` pieces of `surveyPieceBytes` are under way, and a stretch more while somebody is `behind`; their leaves are all the memory this takes.
 *  4. Pieces are judged in ascending order, none behind one that could not be read or judged. `behind` is told between two of them: nothing is judged or made
 *     durable meanwhile.
 */
import { fullMask } from '../disk/page-mask.ts';
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { AgentCounters } from './counters.ts';
import { blocksIn, type BlockHasher, type Run } from './hash-blocks.ts';
import type { ReplicaDisk } from './replica-disk.ts';
import type { Session } from './session.ts';

const { leafBytes } = limits.disk;
const { resyncStretchBytes, surveyPieceBytes } = limits.agent;

export interface SurveyContext {
  readonly session: Session;
  readonly disk: ReplicaDisk;
  readonly hasher: BlockHasher;
  readonly clock: Clock;
  readonly counters: AgentCounters;
  /** Resolves when the next piece of so many bytes may be read. */
  readonly pace: (bytes: number) => Promise<void>;
  /** Whether reading is allowed now, and a wait until it is (or the session ended). */
  readonly mayRead: () => boolean;
  readonly waitUntilItMay: () => Promise<void>;
  /** Told to which block everything is hashed and judged, so that it can be worked on while threads go on hashing. */
  readonly behind?: (end: number) => Promise<void>;
}

/** A piece of work: ascending runs of marked blocks. */
interface Piece {
  readonly runs: Run[];
  /** Behind the last block. */
  readonly end: number;
  readonly leaves: Promise<Uint8Array>;
  isHashed: boolean;
}

/** Cuts marked blocks into pieces of at most `blocksMax`. */
function* piecesOf(blocks: Iterable<readonly [number, number]>, blocksMax: number): Generator<Run[]> {
  let runs: Run[] = [];
  let inPiece = 0;
  for (const [block] of blocks) {
    const last = runs.at(-1);
    if (last && last.first + last.count === block) runs[runs.length - 1] = { first: last.first, count: last.count + 1 };
    else runs.push({ first: block, count: 1 });
    inPiece += 1;
    if (inPiece < blocksMax) continue;
    yield runs;
    runs = [];
    inPiece = 0;
  }
  if (runs.length > 0) yield runs;
}

class Survey {
  readonly #context: SurveyContext;
  readonly #underWay: Piece[] = [];
  readonly #piecesMax: number;
  /** Everything below was hashed and judged. */
  #doneTo = 0;
  #unsavedBytes = 0;
  #savedMs: number;

  constructor(context: SurveyContext) {
    this.#context = context;
    this.#savedMs = context.clock.monotonicMs();
    const { hasher, behind } = context;
    // One that hashes on this thread would not get further meanwhile.
    const ahead = behind && hasher.width > 1 ? Math.ceil(resyncStretchBytes / surveyPieceBytes) : 0;
    this.#piecesMax = hasher.width + ahead;
  }

  /** Rejects when the session ends, and with what reading the disk threw; in both cases what was hashed is kept. */
  async run(): Promise<void> {
    const { disk, session, pace, mayRead, waitUntilItMay } = this.#context;
    const { capture } = disk;
    const { blockSize } = capture.geometry;
    const total = capture.swap() * blockSize;
    disk.enter('hashing', total);
    let done = 0;
    try {
      for (const runs of piecesOf(capture.sending(), Math.max(1, surveyPieceBytes / blockSize))) {
        if (!mayRead()) {
          await this.#finish();
          await waitUntilItMay();
          disk.enter('hashing', total);
          disk.progressed(done);
        }
        if (session.isOver) break;
        const bytes = blocksIn(runs) * blockSize;
        await pace(bytes);
        this.#begin(runs);
        done += bytes;
        await this.#judgeSome(this.#piecesMax - 1);
      }
      while (!session.isOver && this.#underWay.length > 0) await this.#judgeSome(this.#underWay.length - 1);
    } finally {
      await this.#finish();
    }
    if (session.isOver) throw await session.ended;
    capture.endSending();
  }

  #begin(runs: Run[]): void {
    const { disk, hasher } = this.#context;
    const last = runs.at(-1);
    const leaves = hasher.hash(disk.capture, disk.leafKey, runs);
    const piece = { runs, end: last ? last.first + last.count : 0, leaves, isHashed: false };
    leaves.then(
      () => {
        piece.isHashed = true;
      },
      () => undefined,
    );
    this.#underWay.push(piece);
  }

  /** All that is hashed, and what has to be waited for so that no more than `leftMax` pieces are under way. */
  async #judgeSome(leftMax: number): Promise<void> {
    while (this.#underWay.length > leftMax || this.#underWay[0]?.isHashed === true) await this.#judgeOldest();
    await this.#saveSometimes();
    await this.#context.behind?.(this.#doneTo);
  }

  async #finish(): Promise<void> {
    try {
      while (this.#underWay.length > 0) await this.#judgeOldest();
    } finally {
      await Promise.allSettled(this.#underWay.map(({ leaves }) => leaves));
      this.#underWay.length = 0;
      await this.#save();
    }
  }

  async #judgeOldest(): Promise<void> {
    const [piece] = this.#underWay;
    if (!piece) return;
    const { disk, counters } = this.#context;
    const hashed = await piece.leaves;
    const blocks = blocksIn(piece.runs);
    let at = 0;
    for (const run of piece.runs) {
      this.#judge(run, hashed.subarray(at, at + run.count * leafBytes));
      at += run.count * leafBytes;
    }
    // One that failed, at its reading or here, stays the oldest: 4.
    this.#underWay.shift();
    this.#doneTo = piece.end;
    this.#unsavedBytes += blocks * disk.capture.geometry.blockSize;
    disk.progressed(blocks * disk.capture.geometry.blockSize);
    counters.blocksHashed += blocks;
    counters.blocksSurveyed += blocks;
  }

  #judge({ first, count }: Run, hashed: Uint8Array): void {
    const { leaves, capture, knownPoint } = this.#context.disk;
    const working = leaves.leavesOf(first, count);
    if (Buffer.compare(hashed, working) === 0 && knownPoint === null) return;
    const durable = knownPoint === null ? working : leaves.committedLeavesOf(first, count);
    for (let index = 0; index < count; index += 1) {
      const [from, to] = [index * leafBytes, (index + 1) * leafBytes];
      const leaf = hashed.subarray(from, to);
      const same = equal(leaf, working, from) && equal(leaf, durable, from);
      if (same) continue;
      if (knownPoint === null) leaves.set(first + index, leaf);
      else capture.mark(first + index, fullMask);
    }
  }

  async #saveSometimes(): Promise<void> {
    const { checkpointBytes, checkpointMs } = limits.agent;
    const late = this.#context.clock.monotonicMs() - this.#savedMs >= checkpointMs;
    if (late || this.#unsavedBytes >= checkpointBytes) await this.#save();
  }

  async #save(): Promise<void> {
    this.#savedMs = this.#context.clock.monotonicMs();
    if (this.#unsavedBytes === 0) return;
    this.#unsavedBytes = 0;
    await this.#context.disk.checkpoint(this.#doneTo);
  }
}

function equal(leaf: Uint8Array, leaves: Uint8Array, from: number): boolean {
  return Buffer.compare(leaf, leaves.subarray(from, from + leafBytes)) === 0;
}

export function survey(context: SurveyContext): Promise<void> {
  return new Survey(context).run();
}

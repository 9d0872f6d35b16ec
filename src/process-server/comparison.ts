/**
 * Comparing source and replica of a session's disks (PROTOCOL.md, "Comparing a disk"): CHECKSUMS of the agent are kept, the target is asked for its
 * own of the same range, the pool compares, DIFFERENT goes back. The target reads no data for it, and nothing here needs a key.
 *
 *   CHECKSUMS ──► queued in the backlog ──its turn, and room──► asked ──CHECKSUMS of the target──► pool ──► DIFFERENT
 *
 * Invariants:
 *  1. ASK leaves in the order of everything else the agent sent, so what the target answers from includes every batch before it.
 *  2. The target answers in order; an answer is believed for the oldest question only, and only if it is about the same range of the same disk.
 *  3. DIFFERENT leaves in the order of the CHECKSUMS, whatever order the workers finish in.
 *  4. Bounded (C5): an agent has at most `comparisonsMax` unanswered. What waits for its turn counts as waiting control frames, so no more is
 *     read from the agent above `controlQueueBytesMax`; what was asked, and the room for its answer, comes out of `comparisonBytesMax`.
 *  5. When the session ends, what waits is dropped and its room given back; an outcome that is under way is forgotten when it comes.
 */
import { releaseMessage } from '../kit/release.ts';
import type { Credit } from '../kit/credit.ts';
import { Serial } from '../kit/serial.ts';
import { limits } from '../limits.ts';
import { decodeChecksums, encodeAsk, type ChecksumBounds, type ChecksumRange } from '../wire/checksums.ts';
import { protocolError } from '../wire/codes.ts';
import { frameHeaderBytes, type Frame } from '../wire/frame.ts';
import type { Backlog } from './backlog.ts';
import type { SessionCounters } from './counters.ts';
import { targetFault } from './lane.ts';
import type { Sealer } from './pool.ts';
import type { ReturnPath } from './return-path.ts';

export interface ComparisonOptions {
  readonly backlog: Backlog;
  readonly back: ReturnPath;
  readonly sealer: Sealer;
  readonly counters: SessionCounters;
  /** Bytes of checksums that may be asked for or compared, shared by all sessions. */
  readonly room: Credit;
  readonly onFailure: (error: unknown) => void;
}

interface Asked extends ChecksumRange {
  readonly disk: number;
  /** The agent's checksums, their own memory. */
  readonly source: ArrayBuffer;
}

const described = ({ disk, level, first, count }: ChecksumRange & { readonly disk: number }): string =>
  `${level} ${first} to ${first + count - 1} of disk ${disk}`;
/** Of both sides. */
const roomOf = ({ source }: Asked): number => 2 * source.byteLength;

export class Comparison {
  readonly #options: ComparisonOptions;
  /** Asked of the target and not answered, oldest first. */
  #asked: Asked[] = [];
  readonly #answers = new Serial();
  /** CHECKSUMS of the agent without their DIFFERENT. */
  #unanswered = 0;
  #ended = false;

  constructor(options: ComparisonOptions) {
    this.#options = options;
  }

  get isIdle(): boolean {
    return this.#unanswered === 0;
  }

  /** CHECKSUMS of the agent about a disk within `bounds`; its memory is not needed any more. @throws Problem `protocol-error`. */
  ask({ disk, body }: Frame, bounds: ChecksumBounds): void {
    if (this.#unanswered >= limits.wire.comparisonsMax) {
      throw protocolError(`more than ${limits.wire.comparisonsMax} CHECKSUMS unanswered`); // 4
    }
    const { level, first, count, hashes } = decodeChecksums(body, bounds);
    const asked: Asked = { disk, level, first, count, source: Uint8Array.from(hashes).buffer };
    this.#unanswered += 1;
    const { backlog, counters } = this.#options;
    counters.checksumBytesIn += asked.source.byteLength;
    backlog.control(encodeAsk(disk, asked), () => this.#take(asked), asked.source.byteLength); // 1
  }

  /** CHECKSUMS of the target about a disk within `bounds`. @throws Problem when it does not answer the oldest question. */
  answer({ disk, body }: Frame, bounds: ChecksumBounds): void {
    const { level, first, count, hashes } = decodeChecksums(body, bounds);
    const [asked] = this.#asked;
    if (!asked) throw targetFault('CHECKSUMS that nobody asked for');
    if (disk !== asked.disk || level !== asked.level || first !== asked.first || count !== asked.count) {
      throw targetFault(`CHECKSUMS of ${described({ disk, level, first, count })} instead of ${described(asked)}`); // 2
    }
    this.#asked.shift();
    const target = Uint8Array.from(hashes).buffer;
    releaseMessage(body, frameHeaderBytes);
    const difference = this.#compare(asked, target);
    // Told by the job below, when its turn comes.
    difference.catch(() => undefined);
    void this.#answers.run(async () => {
      try {
        const frame = await difference;
        if (this.#ended) return;
        this.#unanswered -= 1;
        this.#options.back.send(frame); // 3
      } catch (error) {
        if (!this.#ended) this.#options.onFailure(error);
      }
    });
  }

  /** Idempotent. */
  end(): void {
    this.#ended = true;
    for (const asked of this.#asked) this.#options.room.give(roomOf(asked));
    this.#asked = [];
  }

  /** Its turn has come: waits for room, then the question counts as asked. @throws when the session ended meanwhile. */
  async #take(asked: Asked): Promise<void> {
    const { room } = this.#options;
    await room.take(roomOf(asked));
    if (this.#ended) {
      room.give(roomOf(asked)); // 5
      throw new Error('the session ended');
    }
    this.#asked.push(asked);
  }

  async #compare(asked: Asked, target: ArrayBuffer): Promise<Uint8Array> {
    const { sealer, counters, room } = this.#options;
    const bytes = roomOf(asked);
    try {
      const { frame, differing, compareMs } = await sealer.compare({ ...asked, target });
      counters.checksums += asked.count;
      counters.checksumsDiffering += differing;
      counters.compareMs += compareMs;
      return frame;
    } finally {
      room.give(bytes);
    }
  }
}

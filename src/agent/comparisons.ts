/** CHECKSUMS of a session that wait for their DIFFERENT: at most `limits.wire.comparisonsMax`, answered in order. */
import { Credit } from '../kit/credit.ts';
import type { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import {
  decodeDifference,
  encodeChecksums,
  type ChecksumBounds,
  type Checksums,
  type Difference,
} from '../wire/checksums.ts';
import { protocolError } from '../wire/codes.ts';
import type { Frame } from '../wire/frame.ts';

interface Asked {
  readonly disk: number;
  readonly level: Checksums['level'];
  readonly first: number;
  readonly count: number;
  readonly bounds: ChecksumBounds;
  readonly answer: PromiseWithResolvers<Difference>;
}

export class Comparisons {
  readonly #send: (frame: Uint8Array) => Promise<void>;
  readonly #slots = new Credit(limits.wire.comparisonsMax);
  readonly #asked: Asked[] = [];

  constructor(send: (frame: Uint8Array) => Promise<void>) {
    this.#send = send;
  }

  /** Rejects when the session ends. */
  async compare(disk: number, message: Checksums, bounds: ChecksumBounds): Promise<Difference> {
    await this.#slots.take(1);
    const { level, first, count } = message;
    const answer = Promise.withResolvers<Difference>();
    // Whoever fails to send hears of it from `send`; nobody listens to the answer then.
    answer.promise.catch(() => undefined);
    this.#asked.push({ disk, level, first, count, bounds, answer });
    await this.#send(encodeChecksums(disk, message));
    return answer.promise;
  }

  /** @throws Problem `protocol-error`. */
  answered(frame: Frame): void {
    const asked = this.#asked.shift();
    if (asked?.disk !== frame.disk) throw protocolError('DIFFERENT without CHECKSUMS');
    const found = decodeDifference(frame.body, asked.bounds);
    if (found.level !== asked.level || found.first !== asked.first || found.count !== asked.count) {
      throw protocolError(`DIFFERENT of ${found.level} ${found.first}, asked for ${asked.level} ${asked.first}`);
    }
    this.#slots.give(1);
    asked.answer.resolve(found);
  }

  end(reason: Problem): void {
    this.#slots.end(reason);
    for (const { answer } of this.#asked.splice(0)) answer.reject(reason);
  }
}

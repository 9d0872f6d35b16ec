/**
 * One connection to a QEMU guest agent: JSON lines over a Unix socket (QEMU's character device in front of the guest's serial port), one
 * answer per command, in order (QEMU guest agent protocol reference, `qga/qapi-schema.json`).
 *
 * The line behind the socket outlives us: it may hold half a command of the client before, answers to it, and commands the guest has not come
 * to yet. So a channel begins with `guest-sync-delimited`: a byte 0xFF throws away what the guest's parser holds, the answer comes behind a
 * byte 0xFF that throws away what our parser holds, and whatever does not carry our number is somebody else's. What is sent after it is answered
 * after it. After a command that was not answered in time the channel is worth nothing; a new one begins, with a new number.
 *
 * Invariants:
 *  1. A line, whole or not, holds at most `guestAgentLineBytesMax` of our memory.
 *  2. `call` settles: answered, refused by the guest (Problem `guest-agent-refused`), or the channel ended (the reason it was ended with).
 */
import { connect, type Socket } from 'node:net';
import { z } from 'zod';
import { messageOf, Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';

const answerSchema = z.union([
  z.object({ error: z.object({ class: z.string(), desc: z.string() }) }),
  z.object({ return: z.unknown().refine((value) => value !== undefined) }),
]);

export type GuestCommand = 'guest-fsfreeze-status' | 'guest-fsfreeze-freeze' | 'guest-fsfreeze-thaw';

interface Awaited {
  readonly command: string;
  /** The answer has to be this number; everything before it is stale. */
  readonly sync: number | null;
  readonly answer: PromiseWithResolvers<unknown>;
}

const flush = 0xff;
const newline = 0x0a;

export class GuestChannel {
  readonly #socket: Socket;
  readonly #awaited: Awaited[] = [];
  #line: Buffer = Buffer.alloc(0);
  #ended: Error | null = null;

  /** Connects and asks for a sync; commands may follow at once. Lasts until `end` and does not keep the process alive. */
  constructor(socketPath: string, random: Random) {
    this.#socket = connect({ path: socketPath });
    this.#socket.unref();
    this.#socket.on('data', (piece: Buffer) => {
      this.#receive(piece);
    });
    this.#socket.on('error', (error) => {
      this.end(new Problem('unreachable', `${socketPath}: ${messageOf(error)}`, { retryable: true, cause: error }));
    });
    this.#socket.on('close', () => {
      this.end(new Problem('closed', `${socketPath}: the connection was closed`, { retryable: true }));
    });
    const number = random.bytes(6).readUIntBE(0, 6);
    const text = JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id: number } });
    this.#send(Buffer.concat([Buffer.of(flush), Buffer.from(`${text}\n`)]), 'guest-sync-delimited', number).catch(
      () => undefined,
    );
  }

  /** Why it can not be used any more, or null. */
  get ended(): Error | null {
    return this.#ended;
  }

  /** What the guest returned. */
  call(command: GuestCommand): Promise<unknown> {
    return this.#send(Buffer.from(`${JSON.stringify({ execute: command })}\n`), command, null);
  }

  /** Idempotent; the first reason stays. */
  end(reason: Error): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#socket.destroy();
    this.#line = Buffer.alloc(0);
    for (const { answer } of this.#awaited.splice(0)) answer.reject(reason);
  }

  #send(bytes: Uint8Array, command: string, sync: number | null): Promise<unknown> {
    if (this.#ended) return Promise.reject(this.#ended);
    const answer = Promise.withResolvers<unknown>();
    this.#awaited.push({ command, sync, answer });
    this.#socket.write(bytes);
    return answer.promise;
  }

  #receive(piece: Buffer): void {
    let from = 0;
    for (const [at, byte] of piece.entries()) {
      if (byte === flush) this.#line = Buffer.alloc(0);
      if (byte === newline) {
        const line = Buffer.concat([this.#line, piece.subarray(from, at)]);
        this.#line = Buffer.alloc(0);
        this.#take(line.toString());
      }
      if (byte === flush || byte === newline) from = at + 1;
    }
    this.#line = Buffer.concat([this.#line, piece.subarray(from)]);
    if (this.#line.byteLength <= limits.agent.guestAgentLineBytesMax) return;
    this.#line = Buffer.alloc(0);
    if (this.#awaited[0]?.sync === null) this.end(nonsense('a line without an end'));
  }

  #take(line: string): void {
    const [head] = this.#awaited;
    if (!head) return;
    const answer = parse(line);
    if (head.sync !== null) {
      if (!answer || !('return' in answer) || answer.return !== head.sync) return;
    } else if (!answer) {
      this.end(nonsense(line.slice(0, 100)));
      return;
    }
    this.#awaited.shift();
    if ('return' in answer) head.answer.resolve(answer.return);
    else head.answer.reject(new Problem('guest-agent-refused', `${head.command}: ${answer.error.desc}`));
  }
}

function parse(line: string): z.infer<typeof answerSchema> | null {
  try {
    const parsed = answerSchema.safeParse(JSON.parse(line));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

function nonsense(what: string): Problem {
  return new Problem('protocol-error', `the guest agent answered with ${JSON.stringify(what)}`, { retryable: true });
}

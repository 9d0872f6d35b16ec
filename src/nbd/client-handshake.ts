/**
 * The client's side of the NBD handshake: structured replies and `base:allocation` if the server has them, then GO.
 *
 *   greeting (18 bytes) → client flags → STRUCTURED_REPLY → [SET_META_CONTEXT] → GO → export size and flags
 *
 * Invariants:
 *  1. The whole handshake has one deadline, `handshakeMs`.
 *  2. No reply longer than `optionBytesMax` is read.
 *  3. When it fails, the socket is destroyed.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import {
  allocationContext,
  greetingMagic,
  handshakeFlag,
  infoKind,
  option,
  optionMagic,
  optionReply,
  optionReplyMagic,
  wireBytes,
} from './constants.ts';
import { encodeInfoData, encodeMetaData, encodeOption } from './options.ts';

export interface Greeted {
  /** Bytes. */
  readonly size: number;
  /** Transmission flags. */
  readonly flags: number;
  /** `base:allocation` was agreed on. */
  readonly allocation: boolean;
  /** What came after the handshake already. */
  readonly rest: Buffer;
}

interface OptionReply {
  readonly reply: number;
  readonly data: Buffer;
}

export async function greet(socket: Socket, exportName: string, clock: Clock): Promise<Greeted> {
  const intake = new Intake(socket);
  const deadline = clock.after(limits.nbd.handshakeMs, () =>
    intake.end(new Problem('timeout', 'the NBD server did not finish the handshake in time', { retryable: true })),
  );
  try {
    const greeting = await intake.take(18);
    if (greeting.readBigUInt64BE(0) !== greetingMagic || greeting.readBigUInt64BE(8) !== optionMagic) {
      throw broken('it does not greet as an NBD server of the newstyle');
    }
    const flags = Buffer.alloc(wireBytes.clientFlags);
    flags.writeUInt32BE(greeting.readUInt16BE(16) & (handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes));
    socket.write(flags);
    const structured = await isAcknowledged(socket, intake);
    const allocation = structured && (await agreeOnAllocation(socket, intake, exportName));
    const facts = await go(socket, intake, exportName);
    return { ...facts, allocation, rest: intake.release() };
  } catch (error) {
    socket.destroy();
    throw isProblem(error) ? error : new Problem('internal', messageOf(error), { cause: error });
  } finally {
    deadline.cancel();
  }
}

async function isAcknowledged(socket: Socket, intake: Intake): Promise<boolean> {
  socket.write(encodeOption(option.structuredReply, Buffer.alloc(0)));
  return (await takeReply(intake, option.structuredReply)).reply === optionReply.ack;
}

async function agreeOnAllocation(socket: Socket, intake: Intake, exportName: string): Promise<boolean> {
  socket.write(encodeOption(option.setMetaContext, encodeMetaData(exportName, [allocationContext])));
  let agreed = false;
  for (;;) {
    const { reply, data } = await takeReply(intake, option.setMetaContext);
    if (reply !== optionReply.metaContext) return agreed && reply === optionReply.ack;
    if (data.byteLength < 4) throw broken('a metadata context without a number');
    agreed ||= data.toString('utf8', 4) === allocationContext;
  }
}

async function go(socket: Socket, intake: Intake, exportName: string): Promise<{ size: number; flags: number }> {
  socket.write(encodeOption(option.go, encodeInfoData(exportName, [infoKind.blockSize])));
  let facts: { size: number; flags: number } | undefined;
  for (;;) {
    const { reply, data } = await takeReply(intake, option.go);
    if (reply === optionReply.ack) {
      if (!facts) throw broken('it did not tell the size of the export');
      return facts;
    }
    if (reply !== optionReply.info) throw refused(exportName, reply, data);
    if (data.byteLength === 12 && data.readUInt16BE(0) === infoKind.export) {
      const size = Number(data.readBigUInt64BE(2));
      if (!Number.isSafeInteger(size)) throw broken(`it claims a size of ${size} bytes`);
      facts = { size, flags: data.readUInt16BE(10) };
    }
  }
}

async function takeReply(intake: Intake, expected: number): Promise<OptionReply> {
  const header = await intake.take(wireBytes.optionReplyHeader);
  if (header.readBigUInt64BE(0) !== optionReplyMagic) throw broken('an option reply without its magic number');
  if (header.readUInt32BE(8) !== expected) throw broken('a reply to an option that was not asked');
  const length = header.readUInt32BE(16);
  if (length > limits.nbd.optionBytesMax) throw broken(`an option reply of ${length} bytes`);
  return { reply: header.readUInt32BE(12), data: await intake.take(length) };
}

/** Bytes of the handshake, asked for by number; it is strictly question and answer, so one request waits at a time. */
class Intake {
  readonly #socket: Socket;
  #bytes = Buffer.alloc(0);
  #waiting:
    | { readonly length: number; readonly resolve: (bytes: Buffer) => void; readonly reject: (e: Error) => void }
    | undefined;
  #ended: Problem | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', this.#onData);
    socket.on('error', this.#onError);
    socket.on('close', this.#onClose);
  }

  take(length: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { length, resolve, reject };
      this.#serve();
    });
  }

  end(reason: Problem): void {
    this.#ended ??= reason;
    this.#serve();
  }

  /** Lets go of the socket, paused, and of what was not taken. Errors stay caught: an unheard one would end the process. */
  release(): Buffer {
    this.#socket.pause();
    this.#socket.off('data', this.#onData);
    this.#socket.off('close', this.#onClose);
    return this.#bytes;
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    if (this.#bytes.byteLength > 2 * limits.nbd.optionBytesMax) {
      this.end(broken('it says more than it was asked'));
      this.#socket.pause();
    }
    this.#serve();
  };
  readonly #onError = (error: Error): void =>
    this.end(new Problem('unreachable', `NBD: ${error.message}`, { retryable: true, cause: error }));
  readonly #onClose = (): void =>
    this.end(new Problem('unreachable', 'the NBD server closed the connection in the handshake', { retryable: true }));

  #serve(): void {
    const waiting = this.#waiting;
    if (!waiting) return;
    if (this.#bytes.byteLength >= waiting.length) {
      this.#waiting = undefined;
      const bytes = this.#bytes.subarray(0, waiting.length);
      this.#bytes = this.#bytes.subarray(waiting.length);
      waiting.resolve(bytes);
    } else if (this.#ended) {
      this.#waiting = undefined;
      waiting.reject(this.#ended);
    }
  }
}

function refused(exportName: string, reply: number, data: Buffer): Problem {
  if (reply === optionReply.unknownExport) {
    return new Problem('not-found', `the NBD server has no export '${exportName}'`, {
      remedy: 'list its exports with nbdinfo --list',
    });
  }
  return new Problem('refused', `the NBD server refused export '${exportName}': ${data.toString('utf8')} (${reply})`);
}

function broken(what: string): Problem {
  return new Problem('protocol-error', `the NBD server broke the protocol: ${what}`);
}

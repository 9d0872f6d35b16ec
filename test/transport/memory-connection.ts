/**
 * Two connections joined in memory, for tests of the rooms above: the contract of `src/transport/connection.ts` without sockets,
 * with hooks to hold, delay and cut. Frames are copied when sent and arrive in a later turn, so a test meets the same
 * ownership and reentrancy as with a real socket.
 */
import { invariant } from '../../src/kit/invariant.ts';
import { Problem } from '../../src/kit/problem.ts';
import { closeCodes } from '../../src/transport/connection.ts';
import type { Closed, Connection, PeerIdentity, SendOptions, TakeMemory } from '../../src/transport/connection.ts';
import { frameRoomBytes } from '../../src/wire/frame.ts';

/** How many turns a closed end waits for the peer to read what was sent before. */
const lingerTries = 500;

interface InFlight {
  readonly frame: Buffer;
  readonly taken: () => void;
  readonly refused: (error: Error) => void;
}

/** One end. What it sends waits in its own queue until the other end reads it. */
export class MemoryConnection implements Connection {
  readonly peer: PeerIdentity;
  readonly remote: string;
  readonly closed: Promise<Closed>;
  /** Every frame sent from this end so far, in order, whether delivered or not. */
  readonly sent: Buffer[] = [];
  bytesIn = 0;
  bytesOut = 0;
  paused = false;
  /** Milliseconds (of the real clock) every frame from this end takes; order is kept. */
  delayMs = 0;
  /** Sends resolve at once while no more than this many bytes wait for the peer, as the buffers of a socket do. */
  bufferBytes = 256 * 1024;
  #held = false;
  #handler: ((frame: Buffer) => void) | undefined;
  #take: TakeMemory | undefined;
  /** Bytes of the longest frame this end takes now. */
  bytesMax = (): number => Infinity;
  #other: MemoryConnection | undefined;
  #queue: InFlight[] = [];
  #queuedBytes = 0;
  #pumping = false;
  #ended: Closed | undefined;
  readonly #resolveClosed: (closed: Closed) => void;

  constructor(peer: PeerIdentity, remote: string) {
    this.peer = peer;
    this.remote = remote;
    const { promise, resolve } = Promise.withResolvers<Closed>();
    this.closed = promise;
    this.#resolveClosed = resolve;
  }

  join(other: MemoryConnection): void {
    this.#other = other;
  }

  get isClosed(): boolean {
    return this.#ended !== undefined;
  }

  send(frame: Uint8Array, { room = false }: SendOptions = {}): Promise<void> {
    if (this.#ended) return Promise.reject(closedProblem(this.#ended));
    const copy = Buffer.from(frame);
    // What stood there is gone, as with a real socket.
    if (room) Buffer.from(frame.buffer, frame.byteOffset - frameRoomBytes, frameRoomBytes).fill(0xee);
    this.sent.push(copy);
    this.bytesOut += copy.byteLength;
    return new Promise((resolve, reject) => {
      this.#queuedBytes += copy.byteLength;
      const room = this.#queuedBytes <= this.bufferBytes;
      this.#queue.push({ frame: copy, taken: resolve, refused: reject });
      if (room) resolve();
      void this.#pump();
    });
  }

  onFrame(handler: (frame: Buffer) => void, take?: TakeMemory, bytesMax = (): number => Infinity): void {
    invariant(!this.#handler, 'onFrame is called once');
    this.#handler = handler;
    this.#take = take;
    this.bytesMax = bytesMax;
    this.#other?.wake();
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.#other?.wake();
  }

  close(code: number, reason: string): void {
    if (this.#ended) return;
    // What was sent before goes out first (contract 1), unless it is stuck.
    void this.#drain().then(() => {
      this.#other?.end({ by: 'peer', code, reason });
    });
    this.#finish({ by: code === closeCodes.deadline ? 'deadline' : 'us', code, reason });
  }

  #placed(frame: Buffer): Buffer {
    invariant(frame.byteLength <= this.bytesMax(), 'nobody sends a longer frame than the receiver takes');
    const memory = this.#take?.(frame.byteLength);
    if (!memory) return frame;
    invariant(memory.byteLength === frame.byteLength, 'the memory of a frame has its length');
    frame.copy(memory);
    return memory;
  }

  /** Called by the other end when it can take frames again. */
  wake(): void {
    void this.#pump();
  }

  /** Hook: nothing sent from this end arrives until `release`. */
  hold(): void {
    this.#held = true;
  }

  release(): void {
    this.#held = false;
    void this.#pump();
  }

  /** Hook: the connection breaks; both ends see code 1006, what is under way is lost. */
  cut(reason = 'cut by the test'): void {
    const closed: Closed = { by: 'error', code: closeCodes.broken, reason };
    const other = this.#other;
    this.end(closed);
    other?.end(closed);
  }

  /** Hook: this end ends as if it had learned so, the other one hears nothing (half-open). */
  end(closed: Closed): void {
    if (this.#ended) return;
    this.#finish(closed);
    this.#refuseQueued();
  }

  #finish(closed: Closed): void {
    if (this.#ended) return;
    this.#ended = closed;
    this.#resolveClosed(closed);
  }

  #refuseQueued(): void {
    for (const item of this.#queue.splice(0)) item.refused(closedProblem(this.#ended));
    this.#queuedBytes = 0;
  }

  async #drain(): Promise<void> {
    await this.#pump();
    for (let tries = 0; tries < lingerTries && this.#queue.length > 0; tries += 1) await tick(1 + this.delayMs);
    this.#refuseQueued();
  }

  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      for (;;) {
        await tick(this.delayMs);
        const other = this.#other;
        if (!other || other.#ended || this.#held || other.paused || !other.#handler) return;
        const item = this.#queue.shift();
        if (!item) return;
        this.#queuedBytes -= item.frame.byteLength;
        other.bytesIn += item.frame.byteLength;
        item.taken();
        other.#handler(other.#placed(item.frame));
      }
    } finally {
      this.#pumping = false;
    }
  }
}

function tick(ms: number): Promise<void> {
  return new Promise((resolve) => {
    if (ms > 0) setTimeout(resolve, ms);
    else setImmediate(resolve);
  });
}

function closedProblem(closed: Closed | undefined): Problem {
  return new Problem('closed', `the connection is closed: ${closed?.reason ?? 'cut'}`, { retryable: true });
}

/** An identity for tests. */
export function testPeer(role: PeerIdentity['role'], name: string): PeerIdentity {
  return { role, name, fingerprint: '00'.repeat(32), notAfterMs: Date.UTC(2100, 0, 1) };
}

export interface MemoryPair {
  /** Held by the connecting side; its `peer` is the server. */
  readonly client: MemoryConnection;
  /** Held by the listening side; its `peer` is the client. */
  readonly server: MemoryConnection;
}

/** Two joined ends. Defaults: agent `machine-1` talking to process server `ps-1`. */
export function memoryPair(
  clientIdentity: PeerIdentity = testPeer('agent', 'machine-1'),
  serverIdentity: PeerIdentity = testPeer('process-server', 'ps-1'),
): MemoryPair {
  const client = new MemoryConnection(serverIdentity, '127.0.0.1:9443');
  const server = new MemoryConnection(clientIdentity, '127.0.0.1:50000');
  client.join(server);
  server.join(client);
  return { client, server };
}

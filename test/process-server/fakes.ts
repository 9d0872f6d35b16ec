/**
 * In-memory connections and a small real target: it opens disks, hands out keys, checks order, credit and digests of what comes,
 * unseals it, and acknowledges. Hooks let a test hold it back or make it misbehave.
 */
import { randomBytes } from 'node:crypto';
import { geometryOf, type Geometry } from '../../src/disk/geometry.ts';
import { fullMask, scatterPages } from '../../src/disk/page-mask.ts';
import { zeroLeaf } from '../../src/disk/merkle.ts';
import { digest, isZero, leafOf } from '../../src/kernels/hash.ts';
import { deriveLayerKey } from '../../src/kernels/keys.ts';
import { unsealRecord } from '../../src/kernels/unseal.ts';
import { Problem } from '../../src/kit/problem.ts';
import type { Logger } from '../../src/observe/logger.ts';
import type { Closed, Connection, PeerIdentity, Role, TakeMemory } from '../../src/transport/connection.ts';
import { BatchBuilder } from '../../src/wire/batch.ts';
import { encodeCommitted } from '../../src/wire/committed.ts';
import { decodeCredit, encodeCredit } from '../../src/wire/credit.ts';
import { decodeCycle, encodeCycle } from '../../src/wire/cycle.ts';
import { decodeDurable, encodeDurable } from '../../src/wire/durable.ts';
import { decodeErrorMessage, encodeErrorMessage, type ErrorMessage } from '../../src/wire/error.ts';
import { decodeFrame, frameType, type Frame } from '../../src/wire/frame.ts';
import { decodeHello, encodeHello, protocolVersion, type Hello } from '../../src/wire/hello.ts';
import { encodeLeaves } from '../../src/wire/leaves.ts';
import { decodeOpenDisk, encodeOpenDisk } from '../../src/wire/open-disk.ts';
import { decodeOpened, encodeOpened, type Opened } from '../../src/wire/opened.ts';
import { decodePing, encodePing } from '../../src/wire/ping.ts';
import { encodePointMessage } from '../../src/wire/point.ts';
import { decodeSealedHeader, decodeSealedRows, sealedHeaderBytes } from '../../src/wire/sealed.ts';
import { encodeWelcome } from '../../src/wire/welcome.ts';

export const silent: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silent,
};

/** One end of a pair. Frames arrive in order, each in a buffer that shares its ArrayBuffer with others, as from a real socket. */
export class FakeConnection implements Connection {
  readonly peer: PeerIdentity;
  readonly remote = '192.0.2.1:1';
  readonly closed: Promise<Closed>;
  bytesIn = 0;
  bytesOut = 0;
  paused = false;
  /** Frames this end has sent; a test may hold them back. */
  hold: Promise<unknown> | undefined;
  /** Bytes of the longest frame this end takes now. */
  bytesMax = (): number => Infinity;
  other: FakeConnection | undefined;
  #handler: ((frame: Buffer) => void) | undefined;
  #inbox: Buffer[] = [];
  #ended: Closed | undefined;
  readonly #resolve: (closed: Closed) => void;

  constructor(role: Role, name: string) {
    this.peer = { role, name, fingerprint: '00', notAfterMs: 0 };
    const { promise, resolve } = Promise.withResolvers<Closed>();
    this.closed = promise;
    this.#resolve = resolve;
  }

  async send(frame: Uint8Array): Promise<void> {
    if (this.#ended) throw new Problem('closed', 'closed', { retryable: true });
    const copy = Buffer.from(frame);
    this.bytesOut += copy.byteLength;
    this.other?.deliver(copy);
    await (this.hold ?? Promise.resolve());
  }

  deliver(frame: Buffer): void {
    const shared = Buffer.alloc(frame.byteLength + 64, 0xee);
    frame.copy(shared, 32);
    this.#inbox.push(shared.subarray(32, 32 + frame.byteLength));
    queueMicrotask(() => this.#drain());
  }

  #drain(): void {
    while (this.#handler && !this.paused && !this.#ended) {
      const frame = this.#inbox.shift();
      if (!frame) return;
      this.bytesIn += frame.byteLength;
      this.#handler(frame);
    }
  }

  onFrame(handler: (frame: Buffer) => void, _take?: TakeMemory, bytesMax = (): number => Infinity): void {
    this.#handler = handler;
    this.bytesMax = bytesMax;
    queueMicrotask(() => this.#drain());
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    queueMicrotask(() => this.#drain());
  }

  close(code: number, reason: string): void {
    const { other } = this;
    if (this.#ended) return;
    this.finish({ by: 'us', code, reason });
    setImmediate(() => other?.finish({ by: 'peer', code, reason }));
  }

  finish(closed: Closed): void {
    if (this.#ended) return;
    this.#drain();
    this.#ended = closed;
    this.#inbox = [];
    this.#resolve(closed);
  }
}

/** `[ours, theirs]`: what ours sends theirs receives. `ours.peer` is who ours talks to. */
export function pair(ourPeer: [Role, string], theirPeer: [Role, string]): [FakeConnection, FakeConnection] {
  const [ours, theirs] = [new FakeConnection(...ourPeer), new FakeConnection(...theirPeer)];
  ours.other = theirs;
  theirs.other = ours;
  return [ours, theirs];
}

interface TargetDisk {
  readonly id: Uint8Array;
  readonly key: Uint8Array;
  readonly leafKey: Uint8Array;
  readonly geometry: Geometry;
  readonly image: Uint8Array;
  readonly layers: Map<number, { salt: Uint8Array; batches: number }>;
  current: number;
}

export interface TargetHooks {
  /** Credit granted at the start; each SEALED is granted again once durable. */
  windowBytes?: number;
  /** Called for every SEALED; return false to keep it back from DURABLE. */
  onSealed?: (count: number) => boolean;
  onHello?: (hello: Hello) => void;
  opened?: (message: Opened) => Opened;
  /** ASK, GAP: what this target does not do by itself. */
  onOther?: (frame: Frame, target: Pick<FakeTarget, 'events' | 'send'>) => void;
}

export class FakeTarget<Wire extends Connection = FakeConnection> {
  readonly disks = new Map<number, TargetDisk>();
  /** What arrived, in order. */
  readonly events: string[] = [];
  readonly connection: Wire;
  readonly faults: string[] = [];
  readonly nonces = new Set<string>();
  readonly #hooks: TargetHooks;
  #credit = 0;
  #sealed = 0;

  constructor(connection: Wire, hooks: TargetHooks = {}) {
    this.connection = connection;
    this.#hooks = hooks;
    connection.onFrame((message) => {
      try {
        this.#take(decodeFrame(message));
      } catch (error) {
        this.faults.push(String(error));
      }
    });
  }

  #take(frame: Frame): void {
    switch (frame.type) {
      case frameType.hello: {
        const hello = decodeHello(frame.body);
        this.events.push(`HELLO ${hello.role} ${hello.machine}`);
        this.#hooks.onHello?.(hello);
        this.send(encodeWelcome({ protocol: protocolVersion, version: 't', features: [], session: 's' }));
        return;
      }
      case frameType.openDisk: {
        this.#open(frame);
        return;
      }
      case frameType.cycle: {
        const { disk, seq, salt, keyVersion } = decodeCycle(frame.body);
        this.events.push(`CYCLE ${disk} ${seq} v${keyVersion}`);
        const entry = this.#disk(disk);
        entry.layers.set(seq, { salt: Buffer.from(salt ?? '', 'hex'), batches: 0 });
        entry.current = seq;
        return;
      }
      case frameType.sealed: {
        this.#takeSealed(frame);
        return;
      }
      case frameType.point:
        this.events.push('POINT');
        {
          this.send(encodeCommitted({ point: 1, cutTimeMs: 1, disks: [{ disk: 0, root: '00'.repeat(32) }] }));
          return;
        }
      case frameType.ping: {
        this.send(encodePing('pong', decodePing(frame.body)));
        return;
      }
      default:
        if (this.#hooks.onOther) this.#hooks.onOther(frame, this);
        else this.faults.push(`type ${frame.type}`);
    }
  }

  #open(frame: Frame): void {
    const { disk, name, size, blockSize } = decodeOpenDisk(frame.body);
    this.events.push(`OPEN_DISK ${disk} ${name}`);
    const geometry = geometryOf(size, blockSize);
    const [id, key, leafKey] = [randomBytes(16), randomBytes(32), randomBytes(32)];
    const image = new Uint8Array(geometry.blockCount * blockSize);
    this.disks.set(disk, { id, key, leafKey, geometry, image, layers: new Map(), current: 0 });
    const message: Opened = {
      disk,
      diskId: id.toString('hex'),
      epoch: 1,
      nextCounter: 1,
      committed: null,
      layers: null,
      leaves: 'compare',
      leafKey: leafKey.toString('hex'),
      diskKey: key.toString('hex'),
      keyVersion: 1,
    };
    this.send(encodeOpened(this.#hooks.opened?.(message) ?? message));
    this.send(encodeLeaves(disk, { last: true, pairs: [] }));
    if (this.#credit === 0) this.grant(this.#hooks.windowBytes ?? 32 * 1024 * 1024);
  }

  grant(bytes: number): void {
    this.#credit += bytes;
    this.send(encodeCredit(bytes));
  }

  #disk(disk: number): TargetDisk {
    const entry = this.disks.get(disk);
    if (!entry) throw new Error(`disk ${disk} is not open`);
    return entry;
  }

  #takeSealed({ disk, body }: Frame): void {
    const entry = this.#disk(disk);
    this.#credit -= body.byteLength;
    if (this.#credit < 0) this.faults.push('credit exceeded');
    const header = decodeSealedHeader(body);
    const layer = entry.layers.get(header.seq);
    if (!layer || entry.current !== header.seq) throw new Error('SEALED outside its layer');
    if (header.batch !== layer.batches) this.faults.push(`batch ${header.batch} instead of ${layer.batches}`);
    layer.batches += 1;
    if (Buffer.compare(digest(body.subarray(sealedHeaderBytes)), header.digest) !== 0) this.faults.push('digest');
    const layerKey = deriveLayerKey(entry.key, layer.salt, entry.id, header.seq);
    const { blockSize, pageSize } = entry.geometry;
    for (const row of decodeSealedRows(body, entry.geometry)) {
      const used = `${disk} ${header.seq} ${row.nonce}`;
      if (this.nonces.has(used)) this.faults.push(`nonce ${used} twice`);
      this.nonces.add(used);
      const payload = body.subarray(row.payloadOffset, row.payloadOffset + row.storedLength);
      const pages = unsealRecord({ ...row, layerKey, diskId: entry.id, seq: header.seq, payload, pageSize });
      const block = entry.image.subarray(row.block * blockSize, (row.block + 1) * blockSize);
      scatterPages(pages, row.pageMask, pageSize, block);
      if (Buffer.compare(leafOf(entry.leafKey, block), row.leaf) !== 0) this.faults.push(`leaf of block ${row.block}`);
    }
    this.events.push(`SEALED ${disk} ${header.seq} ${header.batch}`);
    this.#sealed += 1;
    if (this.#hooks.onSealed?.(this.#sealed) === false) return;
    this.durable(disk, header.seq, layer.batches, body.byteLength);
  }

  durable(disk: number, seq: number, batches: number, creditBytes: number): void {
    this.send(encodeDurable(disk, { seq, batches }));
    if (creditBytes > 0) this.grant(creditBytes);
  }

  error(message: ErrorMessage): void {
    this.send(encodeErrorMessage(message));
    this.connection.close(4000, message.message);
  }

  send(frame: Uint8Array): void {
    this.connection.send(frame).catch(() => undefined);
  }
}

/** An agent's end: sends what it is told, remembers what comes, never exceeds its credit unless told to. */
export class FakeAgent<Wire extends Connection = FakeConnection> {
  readonly connection: Wire;
  readonly frames: Frame[] = [];
  readonly opened = new Map<number, Opened>();
  creditBytes = 0;
  creditEver = 0;
  error: ErrorMessage | undefined;
  readonly durable: string[] = [];
  committed = 0;
  over = false;
  #waiters: (() => void)[] = [];

  constructor(connection: Wire) {
    this.connection = connection;
    connection.onFrame((message) => {
      const frame = decodeFrame(Buffer.from(message));
      this.frames.push(frame);
      if (frame.type === frameType.credit) {
        const bytes = decodeCredit(frame.body);
        this.creditBytes += bytes;
        this.creditEver += bytes;
      } else if (frame.type === frameType.opened) this.opened.set(frame.disk, decodeOpened(frame.body));
      else if (frame.type === frameType.error) this.error = decodeErrorMessage(frame.body);
      else if (frame.type === frameType.committed) this.committed += 1;
      else if (frame.type === frameType.durable) {
        const { seq, batches } = decodeDurable(frame.body);
        this.durable.push(`${frame.disk} ${seq} ${batches}`);
      }
      for (const wake of this.#waiters.splice(0)) wake();
    });
    void connection.closed.then(() => {
      this.over = true;
      for (const wake of this.#waiters.splice(0)) wake();
    });
  }

  send(frame: Uint8Array): void {
    this.connection.send(frame).catch(() => undefined);
  }

  hello(machine: string, change: Partial<Hello> = {}): void {
    const base: Hello = {
      protocol: [protocolVersion],
      role: 'agent',
      machine,
      version: 't',
      features: ['x'],
      instance: '00'.repeat(16),
    };
    this.send(encodeHello({ ...base, ...change }));
  }

  openDisk(disk: number, size: number, blockSize = 65_536): void {
    this.send(encodeOpenDisk({ disk, name: `d${disk}`, size, blockSize, compression: 'lz4', knownPoint: null }));
  }

  cycle(disk: number, seq: number): void {
    this.send(encodeCycle({ disk, seq, kind: 'initial', base: null }));
  }

  point(disks: number[]): void {
    const entry = {
      size: 65_536,
      root: '00'.repeat(32),
      layers: null,
      kind: 'initial' as const,
      records: 0,
      payloadBytes: 0,
    };
    this.send(
      encodePointMessage({ cutTimeMs: 1, consistency: 'crash', disks: disks.map((disk) => ({ disk, ...entry })) }),
    );
  }

  /** Resolves when `condition` holds; rejects when the connection ends first. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      if (this.over) throw new Error(`closed: ${this.error?.code ?? 'without an error'}`);
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
  }

  /** Takes credit and sends. */
  async batch(frame: Uint8Array): Promise<void> {
    const bytes = frame.byteLength - 8;
    await this.until(() => this.creditBytes >= bytes);
    this.creditBytes -= bytes;
    this.send(frame);
  }
}

/** A BATCH frame of whole blocks. */
export function batchOf(options: {
  disk: number;
  seq: number;
  batch: number;
  leafKey: Uint8Array;
  blocks: readonly (readonly [block: number, content: Uint8Array])[];
}): Uint8Array {
  const builder = new BatchBuilder();
  for (const [block, content] of options.blocks) {
    const zero = isZero(content);
    const leaf = zero ? zeroLeaf : leafOf(options.leafKey, content);
    builder.add(block, fullMask, leaf, zero ? 0 : content.byteLength, (into, at) => {
      into.set(content, at);
      return content.byteLength;
    });
  }
  return builder.finish(options.disk, options.seq, options.batch);
}

/**
 * A lane: one disk of one session. Keeps the order of its batches, and gives out nonces.
 *
 * Invariants:
 *  1. A layer has one sealer and a fresh random salt, so its key is new; nonces count from 0 over all its records (C6).
 *  2. Batches of a layer are numbered 0, 1, 2, …; blocks ascend strictly over the whole layer (PROTOCOL.md, BATCH).
 *  3. Layers with batches that are neither durable nor spooled are counted, and bounded (C5).
 *  4. Keys own their memory (a view would be cloned with all that lies behind it when posted to a worker) and are wiped at the end.
 */
import type { Geometry } from '../disk/geometry.ts';
import { geometryOf } from '../disk/geometry.ts';
import { nodeCountOf } from '../disk/merkle.ts';
import { Problem } from '../kit/problem.ts';
import { deriveLayerKeyBytes } from '../kernels/keys.ts';
import { limits } from '../limits.ts';
import { decodeBatch } from '../wire/batch.ts';
import type { ChecksumBounds } from '../wire/checksums.ts';
import { protocolError } from '../wire/codes.ts';
import type { Cycle } from '../wire/cycle.ts';
import type { OpenDisk } from '../wire/open-disk.ts';
import type { Opened } from '../wire/opened.ts';
import { counterOf, epochOf } from '../wire/seq.ts';
import type { SealTask } from './seal-batch.ts';

/** A batch on its way: everything of its task but the memory, which is taken when a worker is free for it. */
export type PlannedBatch = Omit<SealTask, 'buffer' | 'rawStreak'> & { readonly payloadBytes: number };

interface Keys {
  readonly diskId: Uint8Array;
  readonly leafKey: Uint8Array;
  readonly diskKey: Uint8Array;
  readonly keyVersion: number;
  readonly epoch: number;
  readonly nextCounter: number;
}

interface Layer {
  readonly seq: number;
  readonly key: Uint8Array;
  nextNonce: number;
  nextBatch: number;
  lastBlock: number;
}

type LaneState =
  | { readonly kind: 'opening' }
  | { readonly kind: 'open'; readonly keys: Keys; layer: Layer | null }
  | { readonly kind: 'ended' };

const bytesOf = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex, 'hex'));

/** The target answered what no target answers; the agent can only try again. */
export function targetFault(message: string): Problem {
  return new Problem('unreachable', `the target broke the protocol: ${message}`, { retryable: true });
}

export class Lane {
  readonly disk: number;
  readonly geometry: Geometry;
  /** Records in a row that compression did not help; carried from batch to batch. */
  rawStreak = 0;
  readonly open: OpenDisk;
  /** By layer: its batches in memory. */
  readonly #inFlight = new Map<number, number>();
  #hasLeaves = false;
  #state: LaneState = { kind: 'opening' };

  /** @throws Problem `bad-geometry`. */
  constructor(open: OpenDisk) {
    this.open = open;
    this.disk = open.disk;
    this.geometry = geometryOf(open.size, open.blockSize);
  }

  /** OPENED, and all its LEAVES went to the agent. */
  get isReady(): boolean {
    return this.#state.kind === 'open' && this.#hasLeaves;
  }

  /** The last LEAVES behind OPENED came. */
  leavesEnded(): void {
    this.#hasLeaves = true;
  }

  /** Takes the target's answer, keys included. @throws Problem `unreachable` when it has none or was given twice. */
  opened(message: Opened): void {
    if (this.#state.kind !== 'opening') throw targetFault(`OPENED disk ${this.disk} twice`);
    const { diskKey, keyVersion, epoch, nextCounter } = message;
    if (diskKey === undefined || keyVersion === undefined) throw targetFault('OPENED without a disk key');
    const [diskId, leafKey] = [bytesOf(message.diskId), bytesOf(message.leafKey)];
    const keys: Keys = { diskId, leafKey, diskKey: bytesOf(diskKey), keyVersion, epoch, nextCounter };
    this.#state = { kind: 'open', keys, layer: null };
  }

  /** What CHECKSUMS of this disk can be about. @throws Problem `protocol-error` before the disk is OPENED. */
  get checksumBounds(): ChecksumBounds {
    this.#mustBeOpen('CHECKSUMS');
    return { leaves: this.geometry.blockCount, nodes: nodeCountOf(this.geometry) };
  }

  /**
   * Begins a layer under `salt` (32 fresh random bytes); returns the CYCLE for the target. @throws Problem `protocol-error`, `overloaded`.
   */
  begin(cycle: Cycle, salt: Uint8Array): Cycle {
    const state = this.#mustBeOpen('CYCLE');
    const { diskKey, diskId, keyVersion, epoch, nextCounter } = state.keys;
    if (epochOf(cycle.seq) !== epoch || counterOf(cycle.seq) < nextCounter) {
      throw protocolError(`CYCLE ${cycle.seq} does not belong to epoch ${epoch} from ${nextCounter}`);
    }
    if (this.#inFlight.size >= limits.wire.layersInFlightMax) {
      // Not a broken protocol: cuts given up while the target stands still add layers, too. In the next session none is on its way.
      throw new Problem('overloaded', `disk ${this.disk} has ${this.#inFlight.size} layers that are not durable yet`, {
        remedy: 'nothing is lost; look at the target for what keeps it from acknowledging',
        retryable: true,
      });
    }
    state.layer?.key.fill(0);
    const key = deriveLayerKeyBytes(diskKey, salt, diskId, cycle.seq);
    state.layer = { seq: cycle.seq, key, nextNonce: 0, nextBatch: 0, lastBlock: -1 };
    const { disk, seq, kind, base } = cycle;
    return { disk, seq, kind, base, salt: Buffer.from(salt).toString('hex'), keyVersion };
  }

  /** Checks a BATCH body, gives it its nonces, remembers it. @throws Problem `protocol-error`. */
  plan(body: Uint8Array): PlannedBatch {
    const { keys, layer } = this.#mustBeOpen('BATCH');
    if (!layer) throw protocolError('BATCH before CYCLE');
    const { seq, batch, count, firstBlock, lastBlock, payloadBytes } = decodeBatch(body, this.geometry);
    if (seq !== layer.seq) throw protocolError(`BATCH of layer ${seq} within layer ${layer.seq}`);
    if (batch !== layer.nextBatch) throw protocolError(`batch ${batch} of layer ${seq} instead of ${layer.nextBatch}`);
    if (firstBlock <= layer.lastBlock)
      throw protocolError(`block ${firstBlock} after ${layer.lastBlock} in layer ${seq}`);
    const firstNonce = layer.nextNonce;
    layer.nextNonce += count;
    layer.nextBatch += 1;
    layer.lastBlock = lastBlock;
    this.#inFlight.set(seq, (this.#inFlight.get(seq) ?? 0) + 1);
    const { diskId, leafKey } = keys;
    const { disk } = this;
    const { compression } = this.open;
    // Copies, because the layer's key is wiped when the next layer begins and this batch may still wait for a worker.
    const layerKey = Uint8Array.from(layer.key);
    return {
      bodyBytes: body.byteLength,
      disk,
      seq,
      batch,
      count,
      firstNonce,
      layerKey,
      leafKey,
      diskId,
      compression,
      payloadBytes,
    };
  }

  /** A batch of layer `seq` is durable, or spooled. */
  settled(seq: number): void {
    const left = (this.#inFlight.get(seq) ?? 0) - 1;
    if (left > 0) this.#inFlight.set(seq, left);
    else this.#inFlight.delete(seq);
  }

  /** Wipes the keys. Idempotent. */
  end(): void {
    if (this.#state.kind === 'open') {
      this.#state.keys.diskKey.fill(0);
      this.#state.layer?.key.fill(0);
    }
    this.#state = { kind: 'ended' };
    this.#inFlight.clear();
  }

  #mustBeOpen(what: string): Extract<LaneState, { kind: 'open' }> {
    if (this.#state.kind !== 'open') throw protocolError(`${what} for disk ${this.disk} before it is OPENED`);
    return this.#state;
  }
}

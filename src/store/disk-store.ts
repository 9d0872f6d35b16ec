/**
 * One disk's replica while its machine's store is open for writing: the layers no point lists yet, the working leaves, what is
 * committed.
 *
 * Invariants:
 *  1. A batch is indexed, and its leaves are laid, only after its bytes are durable, and in the order of the log. So index, leaves and
 *     `pending` never speak of bytes that could be lost.
 *  2. Batches of a layer are contiguous from 0 and its blocks ascend strictly. After a failed append the layer takes nothing more, until a session takes
 *     it up again where it is durable.
 *  3. Working leaves = committed leaves + all pending layers, in order.
 *  4. A layer without a durable batch holds nothing: it does not count as pending, and is forgotten when the next one begins. Its entry
 *     in log and index does no harm.
 *  5. However many layers are pending, they cost one value of fixed size (C5), and the one that was begun last: when a layer's entry is
 *     durable and indexed, so is all of the layer before it. So nothing here ever has to refuse another one.
 */
import { geometryOf, type Geometry } from '../disk/geometry.ts';
import { nodeCountOf } from '../disk/merkle.ts';
import { fullMask } from '../disk/page-mask.ts';
import { digest } from '../kernels/hash.ts';
import { withLayer, type LayerRun } from '../kernels/layer-run.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { protocolError } from '../wire/codes.ts';
import type { LeafPair } from '../wire/leaves.ts';
import { decodeSealedHeader, decodeSealedRows, sealedHeaderBytes, type SealedRow } from '../wire/sealed.ts';
import { epochOf } from '../wire/seq.ts';
import { StaleEpoch } from './epochs.ts';
import { completeMark } from './index-nodes.ts';
import type { IndexReader } from './index-reader.ts';
import type { LeafFile } from './leaf-file.ts';
import type { MachineLog, NewLayer } from './machine-log.ts';
import { layerUnknown, OpenLayer, type Opened } from './open-layer.ts';
import { decodeLayerBody } from './segment-format.ts';
import type { DiskKeys } from './vault.ts';

export interface CommittedDisk {
  readonly point: number;
  readonly cutTimeMs: number;
  readonly size: number;
  /** Hex. */
  readonly root: string;
}

export interface AcceptedBatch {
  readonly seq: number;
  /** Of the layer, once `durable` resolves. */
  readonly batches: number;
  /** None: the layer had the batch already. */
  readonly records: number;
  readonly plainBytes: number;
  /** Durable and indexed. */
  readonly durable: Promise<void>;
}

export interface DiskStoreParts {
  readonly no: number;
  readonly id: string;
  readonly name: string;
  readonly keys: DiskKeys & { readonly version: number };
  readonly log: MachineLog;
  readonly leaves: LeafFile;
  readonly geometry: Geometry;
  readonly committed: CommittedDisk | null;
  readonly pending: LayerRun | null;
  /** The highest seq that points list. */
  readonly listed: number;
  /** Blocks of the newest points whose stored bytes failed a check and have not been sent again. */
  readonly toRepair: Iterable<number>;
  /** False when the index lacks records of committed points: the source is then told to compare. */
  readonly leavesComplete: boolean;
}

export class DiskStore {
  readonly no: number;
  readonly id: string;
  readonly name: string;
  readonly keys: DiskStoreParts['keys'];
  leaves: LeafFile;
  committed: CommittedDisk | null;
  leavesComplete: boolean;
  /** Why the leaf file could not be written at the newest point; null when it was. */
  leavesFailure: unknown = null;
  /** The leaf file is not what it should be and will not be: it is made anew from the index when the disk is opened next. */
  leavesLost = false;
  #geometry: Geometry;
  #pending: LayerRun | null;
  #listed: number;
  /** The layer begun or taken up last, until a point or another session ends it. */
  #current: OpenLayer | null = null;
  readonly #log: MachineLog;
  readonly #toRepair: Set<number>;
  /** The highest block pending layers hold beyond the size known here; -1: none. */
  #beyond = -1;

  constructor(parts: DiskStoreParts) {
    this.no = parts.no;
    this.id = parts.id;
    this.name = parts.name;
    this.keys = parts.keys;
    this.leaves = parts.leaves;
    this.committed = parts.committed;
    this.leavesComplete = parts.leavesComplete;
    this.#geometry = parts.geometry;
    this.#pending = parts.pending;
    this.#listed = parts.listed;
    this.#log = parts.log;
    this.#toRepair = new Set(parts.toRepair);
  }

  get geometry(): Geometry {
    return this.#geometry;
  }

  /** A session begins: what the one before it had open is closed. @throws Problem `bad-geometry`. */
  reopen(wantedBlockSize: number): void {
    const { blockSize } = this.#geometry;
    if (blockSize !== wantedBlockSize) {
      throw new Problem('bad-geometry', `disk ${this.name} has blocks of ${blockSize} bytes, not ${wantedBlockSize}`, {
        remedy: `set the agent's block size to ${blockSize}`,
      });
    }
    this.#current = null;
  }

  /** The source says the disk has this size now. Growth is taken over by the next point, shrinking is refused. @throws Problem `shrunk`. */
  async resize(size: number): Promise<void> {
    const { size: before, blockSize, blockCount } = this.#geometry;
    const holdsBytes = Math.max(this.committed?.size ?? 0, before, this.#beyond * blockSize + 1);
    if (size < holdsBytes) {
      throw new Problem('shrunk', `disk ${this.name} is ${size} bytes, its replica ${holdsBytes} or more`, {
        remedy: 'a disk may grow, not shrink; restore its size or protect it under a new name',
      });
    }
    if (size === before) return;
    this.#geometry = geometryOf(size, blockSize);
    try {
      await this.leaves.grow(this.#geometry);
      if (this.#beyond < 0) return;
      this.#beyond = -1;
      await this.#layPending(blockCount);
    } catch (error) {
      this.#loseLeaves();
      throw error;
    }
  }

  /** Durable layers that no point lists; null: none. Those without a batch hold nothing and are left out. */
  get pending(): LayerRun | null {
    return this.#pending;
  }

  /**
   * Begins a layer: durable when this resolves, with null. Where `continues` allows it, one that no point lists is taken up again: resolves with the
   * batches it has, all of them durable. @throws Problem `stale-epoch`, `protocol-error`, `layer-unknown`, `store-failed`, `full`.
   */
  async beginLayer(layer: NewLayer, continues = false): Promise<number | null> {
    const { seq, epoch } = layer;
    if (epochOf(seq) !== epoch) throw new StaleEpoch(`layer ${seq} is not of epoch ${epoch}`, epoch);
    if (seq > this.#log.highestSeq) return this.#begin(layer, continues ? 'anew' : 'once');
    if (!continues) throw protocolError(`layer ${seq} after layer ${this.#log.highestSeq}`);
    const { had, begun } = await this.#log.inTurn((index) => this.#takeUp(layer, index));
    await begun;
    return had;
  }

  async #begin(layer: NewLayer, how: Opened): Promise<null> {
    if (layer.keyVersion !== this.keys.version)
      throw protocolError(`key version ${layer.keyVersion}, the disk has ${this.keys.version}`);
    const appended = this.#log.appendLayer(this.no, layer);
    const current = new OpenLayer(layer.seq, how);
    this.#current = current;
    try {
      await appended;
    } catch (error) {
      current.end();
      throw error;
    }
    return null;
  }

  /** With all that was appended before in the index. A layer is new to the disk, too, if others of the machine with a higher seq came through and it did not. */
  #takeUp(layer: NewLayer, index: IndexReader): { readonly had: number | null; readonly begun?: Promise<null> } {
    const { seq } = layer;
    const newest = Math.max(this.#listed, this.#pending?.last ?? 0, index.newestLayerOf(this.no));
    if (seq > newest) return { had: null, begun: this.#begin(layer, 'anew') };
    if (seq <= this.#listed) throw layerUnknown(`layer ${seq} of disk ${this.name} is part of a point`);
    const known = decodeLayerBody(index.layer(this.no, seq) ?? new Uint8Array());
    if (!known) throw layerUnknown(`there is no layer ${seq} of disk ${this.name}`);
    if (known.keyVersion !== layer.keyVersion || Buffer.compare(known.salt, layer.salt) !== 0)
      throw layerUnknown(`layer ${seq} of disk ${this.name} has another salt or key version`);
    const tail = index.layerTail(this.no, seq);
    if (seq === newest) this.#log.takeUpLayer(this.no, seq, tail.batches);
    this.#current = new OpenLayer(seq, seq < newest ? 'closed' : 'again', tail);
    return { had: tail.batches };
  }

  /** Checks a SEALED body and appends it. Throws at once what is wrong with it; `durable` tells the rest. The body is kept until then. */
  appendBatch(body: Uint8Array): AcceptedBatch {
    const header = decodeSealedHeader(body);
    const { seq, batch, plainBytes } = header;
    const layer = this.#current;
    if (!layer) throw protocolError(`a batch of layer ${seq}, which is not open`);
    if (layer.has(header)) return { seq, batches: layer.had, records: 0, plainBytes: 0, durable: Promise.resolve() };
    const rows = decodeSealedRows(body, this.#geometry);
    layer.refuseOrder(rows);
    if (Buffer.compare(digest(body.subarray(sealedHeaderBytes)), header.digest) !== 0) {
      throw new Problem('leaf-mismatch', `batch ${batch} of layer ${seq} does not match its digest`, {
        retryable: true,
      });
    }
    const appended = this.#log.appendBatch(this.no, { seq, batch, rows }, body);
    layer.took(rows);
    const durable = appended.then(
      () => {
        if (batch === 0) this.#pending = withLayer(this.#pending, seq);
        this.#lay(rows);
      },
      (error: unknown) => {
        layer.end();
        throw error;
      },
    );
    return { seq, batches: batch + 1, records: rows.length, plainBytes, durable };
  }

  /** Leaves of all records with a higher seq, committed or pending, in order of their layers. */
  leavesSince(maxSeq: number): AsyncGenerator<LeafPair> {
    return this.#log.leavesSince(this.no, maxSeq);
  }

  blocksToRepair(): number[] {
    return [...this.#toRepair].filter((block) => block < this.#geometry.blockCount).sort((a, b) => a - b);
  }

  needRepair(blocks: readonly number[]): void {
    for (const block of blocks) this.#toRepair.add(block);
  }

  /**
   * At opening: leaves of pending layers over the committed ones. A disk that grew after its last point, or has none yet, has leaves beyond the size
   * known here: they stay in the index until `resize`.
   */
  layPending(): Promise<void> {
    return this.#layPending(0);
  }

  /** Leaves of durable records. When the file takes them not, it is behind: what the index says of them stands. */
  #lay(rows: readonly SealedRow[]): void {
    try {
      for (const row of rows) {
        this.leaves.set(row.block, row.leaf);
        // A partial record still leans on the damaged pages.
        if (this.#toRepair.size > 0 && row.pageMask === fullMask) this.#toRepair.delete(row.block);
      }
    } catch (error) {
      this.#loseLeaves();
      throw error;
    }
  }

  #loseLeaves(): void {
    this.leavesComplete = false;
    this.leavesLost = true;
  }

  /** Another leaf file with the committed leaves, at the present size. Until this resolves the disk's leaves are lost. */
  async takeLeaves(leaves: LeafFile, complete: boolean): Promise<void> {
    this.leaves = leaves;
    await this.layPending();
    this.leavesComplete = complete;
    this.leavesFailure = null;
    this.leavesLost = false;
  }

  async #layPending(fromBlock: number): Promise<void> {
    if (this.#pending === null) return;
    for await (const [block, leaf] of this.leavesSince(this.#pending.first - 1)) {
      if (block >= this.#geometry.blockCount) this.#beyond = Math.max(this.#beyond, block);
      else if (block >= fromBlock) this.leaves.set(block, leaf);
    }
  }

  /**
   * Puts the Merkle nodes of the point that is about to be committed into the index, so that it opens without a look at its records. Before the point:
   * whoever finds it finds them. If there is no point after all, they are no lie about any other one, and the next try writes them again.
   */
  async noteNodes(point: number): Promise<void> {
    const changed = this.leaves.changedNodes();
    const { committed } = this;
    if (!committed) await this.#log.noteNodes(this.no, 0, [completeMark]);
    if (committed && committed.size !== this.#geometry.size) {
      // Growth changes the node that was the last one, whether anything under it was written or not.
      const node = nodeCountOf(geometryOf(committed.size, this.#geometry.blockSize)) - 1;
      if (!changed.some((each) => each.node === node)) changed.push({ node, hash: this.leaves.nodesOf(node, 1) });
    }
    await this.#log.noteNodes(this.no, point, changed);
  }

  /**
   * A durable point lists all pending layers. The leaf file is a cache: when it can not be written the point stands all the same, and
   * the source compares with the working leaves, which are in memory, when it opens the disk next (`leavesComplete`, `leavesFailure`). One that
   * was written and can not be synced is replaced first (`leavesLost`).
   */
  async pointCommitted(committed: CommittedDisk): Promise<void> {
    this.committed = committed;
    this.#listed = this.#pending?.last ?? this.#listed;
    this.#pending = null;
    this.#current = null;
    try {
      await this.leaves.commit();
      this.leavesComplete = true;
      this.leavesFailure = null;
    } catch (error) {
      this.leavesComplete = false;
      this.leavesFailure = error;
      // C4: what is read back from it may not be what was written.
      if (isProblem(error) && error.code === 'sync-failed') this.leavesLost = true;
    }
  }
}

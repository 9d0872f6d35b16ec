/**
 * A replica that is only its bytes: what a target knows of one disk, without store or network. It takes records as a target does, but
 * merges pages at once and refuses a block that is not what its leaf says; a point's root is computed from what it holds.
 */
import { geometryOf } from '../../src/disk/geometry.ts';
import { leavesInNode, MerkleNodes, nodeCountOf, zeroLeaf } from '../../src/disk/merkle.ts';
import { fullMask, scatterPages } from '../../src/disk/page-mask.ts';
import { leafOf, merkleHashes } from '../../src/kernels/hash.ts';
import { describeLayers, sameLayers, withLayer, type LayerRun } from '../../src/kernels/layer-run.ts';
import { limits } from '../../src/limits.ts';
import type { BatchRecord } from '../../src/wire/batch.ts';
import type { Checksums, Difference } from '../../src/wire/checksums.ts';
import type { LeafPair } from '../../src/wire/leaves.ts';
import type { Opened } from '../../src/wire/opened.ts';

const { leafBytes, leavesPerNode } = limits.disk;

/** A block as it is stored; neither changes. */
export interface Stored {
  readonly bytes: Buffer;
  readonly leaf: Uint8Array;
}

interface Point {
  readonly blocks: ReadonlyMap<number, Stored>;
  readonly size: number;
  readonly root: string;
}

export class Replica {
  readonly blockSize: number;
  readonly #number: number;
  #points: Point[] = [];
  /** What was last recorded for each point, also of those that are lost. */
  #recorded: Point[] = [];
  /** The newest point and what is durable on top of it. */
  #working = new Map<number, Stored>();
  #layers: LayerRun | null = null;
  #size = 0;
  nextCounter = 1;

  /** Of another `number` it is another replica, with other keys. */
  constructor(blockSize: number, number = 1) {
    this.blockSize = blockSize;
    this.#number = number;
  }

  copy(): Replica {
    const made = new Replica(this.blockSize, this.#number);
    made.#points = [...this.#points];
    made.#recorded = [...this.#recorded];
    made.#working = new Map(this.#working);
    made.#layers = this.#layers;
    made.#size = this.#size;
    made.nextCounter = this.nextCounter;
    return made;
  }

  /** An empty one in its place. */
  another(): Replica {
    const made = new Replica(this.blockSize, this.#number + 1);
    made.#recorded = [...this.#recorded];
    return made;
  }

  get points(): number {
    return this.#points.length;
  }

  get leafKey(): Buffer {
    return Buffer.alloc(32, this.#number);
  }

  /** Null: there never was such a point. */
  leafAt(point: number, block: number): Uint8Array | null {
    const at = this.#recorded[point - 1];
    return at ? (at.blocks.get(block)?.leaf ?? zeroLeaf) : null;
  }

  /** Of the newest point; null: zeros. */
  bytesOf(block: number): Buffer | null {
    return this.#points.at(-1)?.blocks.get(block)?.bytes ?? null;
  }

  /** Its newest point was acknowledged and is gone, with everything on top of it. */
  losePoint(): void {
    this.#points.pop();
    this.loseLayers();
  }

  /** What no point lists was not durable, or its layers were dropped. */
  loseLayers(): void {
    this.#working = new Map(this.#points.at(-1)?.blocks);
    this.#layers = null;
  }

  // ---- as an agent sees it --------------------------------------------------------------------------------------------------

  open(knownPoint: number | null, size: number): { readonly opened: Opened; readonly leaves: readonly LeafPair[] } {
    if (size < this.#size) throw new Error('the disk shrank');
    this.#size = size;
    const known = knownPoint === null ? undefined : this.#points[knownPoint - 1];
    const newest = this.#points.at(-1);
    const opened: Opened = {
      disk: 0,
      diskId: Buffer.alloc(16, this.#number).toString('hex'),
      epoch: 1,
      nextCounter: this.nextCounter,
      committed: newest ? { point: this.points, cutTimeMs: 1, size: newest.size, root: newest.root } : null,
      layers: this.#layers,
      leaves: known ? 'since' : 'compare',
      leafKey: this.leafKey.toString('hex'),
    };
    const leaves: LeafPair[] = [];
    if (known)
      for (const [block, { leaf }] of this.#working)
        if (Buffer.compare(leaf, known.blocks.get(block)?.leaf ?? zeroLeaf) !== 0) leaves.push([block, leaf]);
    return { opened, leaves };
  }

  layer(seq: number): void {
    this.nextCounter += 1;
    this.#layers = withLayer(this.#layers, seq);
  }

  take({ block, pageMask, leaf, payload }: BatchRecord): void {
    const bytes = Buffer.from(this.#working.get(block)?.bytes ?? Buffer.alloc(this.blockSize));
    if (pageMask === fullMask && payload.byteLength === 0) bytes.fill(0);
    else scatterPages(payload, pageMask, this.blockSize / 16, bytes);
    if (Buffer.compare(leafOf(this.leafKey, bytes), leaf) !== 0)
      throw new Error(`block ${block} with the pages ${pageMask.toString(2)} is not what its leaf says`);
    this.#working.set(block, { bytes, leaf: Buffer.from(leaf) });
  }

  compare({ level, first, count, hashes }: Checksums): Difference {
    const ours = level === 'nodes' ? this.#nodes() : this.#leavesFrom(first, count);
    const differing: number[] = [];
    const theirs: Uint8Array[] = [];
    for (let at = 0; at < count; at += 1) {
      const each = ours.subarray(at * leafBytes, (at + 1) * leafBytes);
      if (Buffer.compare(each, hashes.subarray(at * leafBytes, (at + 1) * leafBytes)) === 0) continue;
      differing.push(first + at);
      if (level === 'leaves') theirs.push(each);
    }
    return { level, first, count, differing, hashes: Buffer.concat(theirs) };
  }

  /** @throws when the root is another one: nothing here is ever lost on its way. */
  commit(root: string, layers: LayerRun | null): number {
    if (!sameLayers(layers, this.#layers))
      throw new Error(`${describeLayers(layers)}, not ${describeLayers(this.#layers)}`);
    if (root !== this.#root()) throw new Error(`point ${this.points + 1}: the roots differ`);
    const point = { blocks: new Map(this.#working), size: this.#size, root };
    this.#points.push(point);
    this.#recorded[this.points - 1] = point;
    this.#layers = null;
    return this.points;
  }

  #tree(): MerkleNodes {
    const tree = new MerkleNodes(geometryOf(this.#size, this.blockSize), merkleHashes);
    for (let index = 0; index < nodeCountOf(tree.geometry); index += 1)
      tree.set(index, this.#leavesFrom(index * leavesPerNode, leavesInNode(tree.geometry, index)));
    return tree;
  }

  #root(): string {
    return Buffer.from(this.#tree().root()).toString('hex');
  }

  #nodes(): Uint8Array {
    const tree = this.#tree();
    return Buffer.concat(
      Array.from({ length: nodeCountOf(tree.geometry) }, (_, index) => Buffer.from(tree.node(index))),
    );
  }

  #leavesFrom(first: number, count: number): Uint8Array {
    return Buffer.concat(
      Array.from({ length: count }, (_, index) => this.#working.get(first + index)?.leaf ?? zeroLeaf),
    );
  }
}

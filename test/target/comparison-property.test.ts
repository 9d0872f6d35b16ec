/** Whatever layers, points, reconnections, restarts and growth came before: CHECKSUMS are those of a plain array of leaves. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { leavesInNode, MerkleNodes, nodeCountOf, zeroLeaf } from '../../src/disk/merkle.ts';
import { merkleHashes } from '../../src/kernels/hash.ts';
import { limits } from '../../src/limits.ts';
import { frameType } from '../../src/wire/frame.ts';
import { blockSize, TargetSite, type OpenedDisk, type Peer } from './peer.ts';
import { runOf } from '../layers.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const { leavesPerNode } = limits.disk;
const firstBlocks = 2 * leavesPerNode + 37;

type Step =
  | { readonly kind: 'layer'; readonly blocks: readonly number[]; readonly fill: number }
  | { readonly kind: 'point' }
  | { readonly kind: 'reconnect' }
  | { readonly kind: 'restart' }
  | { readonly kind: 'grow'; readonly by: number }
  | { readonly kind: 'check'; readonly first: number; readonly count: number };

const block = fc.oneof(
  fc.nat(firstBlocks - 1),
  fc.constantFrom(0, leavesPerNode - 1, leavesPerNode, 2 * leavesPerNode, firstBlocks - 1),
);
const stepOf: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('layer' as const),
      blocks: fc.uniqueArray(block, { minLength: 1, maxLength: 4 }),
      fill: fc.nat(3),
    }),
  },
  { weight: 4, arbitrary: fc.constantFrom<Step>({ kind: 'point' }, { kind: 'reconnect' }) },
  { weight: 2, arbitrary: fc.constant<Step>({ kind: 'restart' }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('grow' as const), by: fc.integer({ min: 1, max: 1500 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('check' as const), first: fc.nat(firstBlocks - 1), count: fc.nat(1500) }),
  },
);

/** A target, the process server that speaks to it, and what its answers have to be. */
class Life {
  #site: TargetSite;
  #peer: Peer | undefined;
  #disk: OpenedDisk | undefined;
  /** The last block is half on the disk. */
  #blocks = firstBlocks;
  readonly #leaves = new Map<number, Uint8Array>();
  #pending: number[] = [];

  constructor(site: TargetSite) {
    this.#site = site;
  }

  async run(steps: readonly Step[]): Promise<void> {
    for (const step of steps) await this.#step(step);
    await this.#reconnect();
  }

  remove(): Promise<void> {
    return this.#site.remove();
  }

  get #size(): number {
    return this.#blocks * blockSize - 512;
  }

  async #session(): Promise<{ peer: Peer; disk: OpenedDisk }> {
    if (!this.#peer || !this.#disk) {
      const { peer, disk } = await this.#site.session('m1', null, { size: this.#size });
      expect(disk.opened.leaves).toBe('compare');
      expect(disk.opened.layers).toEqual(runOf(this.#pending));
      this.#peer = peer;
      this.#disk = disk;
    }
    return { peer: this.#peer, disk: this.#disk };
  }

  #step(step: Step): Promise<void> {
    switch (step.kind) {
      case 'layer':
        return this.#layer(step.blocks, step.fill);
      case 'point':
        return this.#point();
      case 'reconnect':
        return this.#reconnect();
      case 'restart':
        return this.#restart();
      case 'grow':
        return this.#grow(step.by);
      case 'check':
        return this.#checkLeaves(step.first, step.count);
    }
  }

  async #layer(blocks: readonly number[], fill: number): Promise<void> {
    const { peer, disk } = await this.#session();
    const seq = peer.cycle(disk);
    for (const [batch, each] of blocks.toSorted((a, b) => a - b).entries()) {
      this.#leaves.set(each, peer.sealed(disk, seq, each, batch, fill));
      await peer.next(frameType.durable);
    }
    this.#pending.push(seq);
  }

  /** Its root is the model's: the target agrees, or refuses. */
  async #point(): Promise<void> {
    const { peer } = await this.#session();
    const nodes = this.#nodes();
    peer.point(Buffer.from(nodes.root()).toString('hex'), this.#pending, { size: this.#size });
    expect((await peer.next(frameType.committed, frameType.rejected)).type).toBe(frameType.committed);
    this.#pending = [];
  }

  async #reconnect(): Promise<void> {
    this.#peer = undefined;
    await this.#checkNodes();
    await this.#checkLeaves(0, this.#blocks);
  }

  async #restart(): Promise<void> {
    this.#peer = undefined;
    this.#site = await this.#site.restarted();
  }

  async #grow(by: number): Promise<void> {
    this.#peer = undefined;
    this.#blocks += by;
    await this.#session();
  }

  #plain(first: number, count: number): Buffer {
    return Buffer.concat(Array.from({ length: count }, (_, at) => this.#leaves.get(first + at) ?? zeroLeaf));
  }

  #nodes(): MerkleNodes {
    const geometry = geometryOf(this.#size, blockSize);
    const nodes = new MerkleNodes(geometry, merkleHashes);
    for (let node = 0; node < nodeCountOf(geometry); node += 1)
      nodes.set(node, this.#plain(node * leavesPerNode, leavesInNode(geometry, node)));
    return nodes;
  }

  async #checkNodes(): Promise<void> {
    const { peer, disk } = await this.#session();
    const count = Math.ceil(this.#blocks / leavesPerNode);
    const nodes = this.#nodes();
    const expected = Buffer.concat(Array.from({ length: count }, (_, node) => nodes.node(node).slice()));
    // One after another, the last first, then all at once.
    for (let node = count - 1; node >= 0; node -= 1) {
      const answered = await peer.checksums(disk, { level: 'nodes', first: node, count: 1 });
      expect(Buffer.compare(nodes.node(node), answered)).toBe(0);
    }
    expect(Buffer.compare(expected, await peer.checksums(disk, { level: 'nodes', first: 0, count }))).toBe(0);
  }

  async #checkLeaves(first: number, most: number): Promise<void> {
    const { peer, disk } = await this.#session();
    const count = Math.max(1, Math.min(most, this.#blocks - first));
    const answered = await peer.checksums(disk, { level: 'leaves', first, count });
    expect(Buffer.compare(this.#plain(first, count), answered)).toBe(0);
  }
}

test(
  'CHECKSUMS equal the leaves of a plain model through layers, points, reconnections, restarts and growth',
  async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(stepOf, { minLength: 8, maxLength: 25 }), async (steps) => {
        const life = new Life(await TargetSite.start());
        try {
          await life.run(steps);
        } finally {
          await life.remove();
        }
      }),
      { numRuns: soak ? 300 : 15 },
    );
  },
  soak ? 600_000 : 60_000,
);

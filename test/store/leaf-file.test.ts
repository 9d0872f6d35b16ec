import fc from 'fast-check';
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { geometryOf, type Geometry } from '../../src/disk/geometry.ts';
import { leavesInNode, MerkleNodes, nodeCountOf, zeroLeaf } from '../../src/disk/merkle.ts';
import { merkleHashes } from '../../src/kernels/hash.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { LeafFile } from '../../src/store/leaf-file.ts';

const blockSize = 4096;
const chunk = 1024;
let directory = '';
let file = '';

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'tidemark-leaf-'));
  file = path.join(directory, '0.leaves');
});
afterEach(() => rmSync(directory, { recursive: true }));

function geometryOfBlocks(blocks: number): Geometry {
  return geometryOf(blocks * blockSize - 512, blockSize);
}

function open(geometry: Geometry, overlayMemoryBytes = 64 * 1024): Promise<LeafFile> {
  return LeafFile.open({ files: posixFiles, path: file, geometry, hashes: merkleHashes, overlayMemoryBytes });
}

function leaf(value: number): Uint8Array {
  if (value === 0) return zeroLeaf;
  const bytes = Buffer.alloc(32, value & 0xff);
  bytes.writeUInt32LE(value, 0);
  return bytes;
}

/** The plainest thing that can be right: all leaves in one array, the tree recomputed from nothing. */
class Model {
  leaves: Uint8Array[];

  constructor(blocks: number) {
    this.leaves = Array.from({ length: blocks }, () => zeroLeaf);
  }

  root(geometry: Geometry): Uint8Array {
    const nodes = new MerkleNodes(geometry, merkleHashes);
    for (let index = 0; index < nodeCountOf(geometry); index += 1) {
      const first = index * chunk;
      nodes.set(index, Buffer.concat(this.leaves.slice(first, first + leavesInNode(geometry, index))));
    }
    return nodes.root();
  }

  /** Leaf after leaf, from `first` to the end or `count` of them. */
  plain(first = 0, count = this.leaves.length): Buffer {
    return Buffer.concat(this.leaves.slice(first, first + count));
  }
}

function allOf(leaves: LeafFile): Buffer {
  return Buffer.from(leaves.leavesOf(0, leaves.geometry.blockCount));
}

type Step =
  | { readonly kind: 'set'; readonly block: number; readonly value: number }
  | { readonly kind: 'sets'; readonly block: number; readonly count: number; readonly value: number }
  | { readonly kind: 'commit' | 'commit-and-go-on' | 'discard' | 'reset' | 'roots' | 'reopen' | 'grow' };

const firstBlocks = 5 * chunk + 37;
const stepOf: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('set'), block: fc.nat(firstBlocks - 1), value: fc.nat(300) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('sets'),
      block: fc.nat(firstBlocks - 1),
      count: fc.nat(1500),
      value: fc.nat(3),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('commit', 'commit-and-go-on') }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('discard', 'roots', 'reopen') }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('reset', 'grow') }) },
);

/** A leaf file and its model, driven side by side. */
class Pair {
  geometry = geometryOfBlocks(firstBlocks);
  committed = new Model(firstBlocks);
  working = new Model(firstBlocks);
  leaves: LeafFile;
  commits: Promise<void>[] = [];

  constructor(leaves: LeafFile) {
    this.leaves = leaves;
  }

  async step(step: Step): Promise<void> {
    if (step.kind === 'set') this.set(step.block, leaf(step.value));
    else if (step.kind === 'sets') {
      const end = Math.min(step.block + step.count, this.geometry.blockCount);
      for (let block = step.block; block < end; block += 1) this.set(block, leaf(step.value && step.value + block));
    } else await this.#whole(step.kind);
  }

  set(block: number, bytes: Uint8Array): void {
    this.leaves.set(block, bytes);
    this.working.leaves[block] = bytes;
  }

  async #whole(kind: Exclude<Step['kind'], 'set' | 'sets'>): Promise<void> {
    if (kind === 'commit' || kind === 'commit-and-go-on') {
      const done = this.leaves.commit();
      this.committed.leaves = [...this.working.leaves];
      if (kind === 'commit') await done;
      else this.commits.push(done);
    } else if (kind === 'discard') {
      this.leaves.discard();
      this.working.leaves = [...this.committed.leaves];
    } else if (kind === 'reset') {
      this.leaves.reset();
      this.working = new Model(this.geometry.blockCount);
      this.committed = new Model(this.geometry.blockCount);
    } else if (kind === 'grow') await this.#grow();
    else if (kind === 'reopen') await this.#reopen();
    else this.checkRoots();
  }

  async #grow(): Promise<void> {
    const more = 1 + (this.geometry.blockCount % 700);
    this.geometry = geometryOfBlocks(this.geometry.blockCount + more);
    await this.leaves.grow(this.geometry);
    for (const model of [this.working, this.committed]) {
      for (let index = 0; index < more; index += 1) model.leaves.push(zeroLeaf);
    }
  }

  async #reopen(): Promise<void> {
    await Promise.all(this.commits);
    await this.leaves.close();
    this.leaves = await open(this.geometry);
    this.working.leaves = [...this.committed.leaves];
  }

  /** Reads in bulk, from `first` on over the border of a node if there is one. */
  checkRanges(first: number): void {
    const count = Math.min(chunk + 5, this.geometry.blockCount - first);
    expect(this.working.plain(first, count).equals(this.leaves.leavesOf(first, count))).toBe(true);
    expect(this.committed.plain(first, count).equals(this.leaves.committedLeavesOf(first, count))).toBe(true);
    const node = Math.floor(first / chunk);
    const end = node * chunk + leavesInNode(this.geometry, node);
    const hashed = merkleHashes.node(Buffer.concat(this.working.leaves.slice(node * chunk, end)));
    expect(this.leaves.nodesOf(node, 1)).toEqual(new Uint8Array(hashed));
  }

  checkRoots(): void {
    expect(this.leaves.workingRoot()).toEqual(this.working.root(this.geometry));
    expect(this.leaves.committedRoot()).toEqual(this.committed.root(this.geometry));
  }
}

describe('leaf file', () => {
  it('equals a plain array through sets, commits, discards, resets, growth and reopening, with a spilling overlay', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(stepOf, { maxLength: 40 }), fc.nat(firstBlocks - 1), async (steps, probe) => {
        rmSync(file, { force: true });
        const pair = new Pair(await open(geometryOfBlocks(firstBlocks)));
        for (const step of steps) await pair.step(step);
        expect(pair.leaves.get(probe)).toEqual(new Uint8Array(pair.working.leaves[probe] ?? zeroLeaf));
        expect(pair.working.plain().equals(allOf(pair.leaves))).toBe(true);
        pair.checkRanges(probe);
        pair.checkRoots();
        await Promise.all(pair.commits);
        await pair.leaves.close();
      }),
      { numRuns: 60 },
    );
  });

  it('keeps leaves at plain offsets, and all-zero stretches as holes', async () => {
    const leaves = await open(geometryOfBlocks(64 * chunk));
    leaves.set(63 * chunk + 5, leaf(7));
    leaves.set(3, leaf(9));
    await leaves.commit();
    leaves.set(3, zeroLeaf);
    await leaves.commit();
    await leaves.close();
    const bytes = readFileSync(file);
    expect(bytes.byteLength).toBe(64 * chunk * 32);
    const at = (63 * chunk + 5) * 32;
    expect(bytes.subarray(at, at + 32)).toEqual(leaf(7));
    expect(statSync(file).blocks * 512).toBeLessThanOrEqual(64 * 1024);
  });

  it('spills beyond its memory and gives the space back after the commit', async () => {
    const geometry = geometryOfBlocks(40 * chunk);
    const leaves = await open(geometry, 2 * 32 * 1024);
    const model = new Model(geometry.blockCount);
    for (let round = 0; round < 3; round += 1) {
      for (let index = 0; index < 40; index += 1) {
        const block = ((index * 17) % 40) * chunk + round;
        leaves.set(block, leaf(index * 3 + round + 1));
        model.leaves[block] = leaf(index * 3 + round + 1);
      }
    }
    expect(leaves.overlayBlocks).toBe(120);
    expect(statSync(`${file}.overlay`).blocks * 512).toBeGreaterThanOrEqual(30 * 32 * 1024);
    expect(leaves.workingRoot()).toEqual(model.root(geometry));
    expect(model.plain().equals(allOf(leaves))).toBe(true);
    await leaves.commit();
    expect(leaves.overlayBlocks).toBe(0);
    expect(statSync(`${file}.overlay`).blocks).toBe(0);
    expect(leaves.committedRoot()).toEqual(model.root(geometry));
    await leaves.close();
  });

  it('what is set while a commit is under way belongs to the next one', async () => {
    const geometry = geometryOfBlocks(600 * chunk);
    const leaves = await open(geometry, 1024 * 1024);
    const first = new Model(geometry.blockCount);
    for (let index = 0; index < 600; index += 1) {
      leaves.set(index * chunk, leaf(index + 1));
      first.leaves[index * chunk] = leaf(index + 1);
    }
    const commit = leaves.commit();
    // The first sync is under way; chunk 599 is not folded yet, chunk 0 is.
    leaves.set(599 * chunk + 1, leaf(1000));
    leaves.set(0, leaf(1001));
    expect(leaves.committedRoot()).toEqual(first.root(geometry));
    leaves.discard();
    await commit;
    expect(leaves.workingRoot()).toEqual(first.root(geometry));
    await leaves.close();
    const again = await open(geometry);
    expect(again.committedRoot()).toEqual(first.root(geometry));
    await again.close();
  });

  it('a file torn by a crash in the middle of a commit shows by its root and is repaired by sets', async () => {
    const geometry = geometryOfBlocks(3 * chunk);
    const leaves = await open(geometry);
    for (let block = 0; block < geometry.blockCount; block += 7) leaves.set(block, leaf(block + 1));
    await leaves.commit();
    const old = readFileSync(file);
    for (let block = 0; block < geometry.blockCount; block += 11) leaves.set(block, leaf(block + 5000));
    await leaves.commit();
    const stored = leaves.committedRoot();
    const wanted = allOf(leaves);
    await leaves.close();
    // Only the first chunk of the second commit arrived.
    writeFileSync(file, Buffer.concat([readFileSync(file).subarray(0, chunk * 32), old.subarray(chunk * 32)]));
    const torn = await open(geometry);
    expect(torn.committedRoot()).not.toEqual(stored);
    torn.reset();
    for (let block = 0; block < geometry.blockCount; block += 1)
      torn.set(block, wanted.subarray(block * 32, (block + 1) * 32));
    await torn.commit();
    expect(torn.committedRoot()).toEqual(stored);
    await torn.close();
  });

  it('opens a file that is too long or too short as the geometry says', async () => {
    const geometry = geometryOfBlocks(2 * chunk);
    const leaves = await open(geometry);
    leaves.set(2 * chunk - 1, leaf(3));
    await leaves.commit();
    await leaves.close();
    truncateSync(file, 100);
    const short = await open(geometry);
    expect(allOf(short)).toEqual(Buffer.alloc(2 * chunk * 32));
    await short.close();
    expect(statSync(file).size).toBe(2 * chunk * 32);
  });

  it('refuses blocks past the end and leaves of another length', async () => {
    const leaves = await open(geometryOfBlocks(10));
    expect(() => leaves.set(10, leaf(1))).toThrow('on the disk');
    expect(() => leaves.get(10)).toThrow('on the disk');
    expect(() => leaves.set(1, new Uint8Array(31))).toThrow('32 bytes');
    await leaves.close();
  });
});

/** Reading a machine beside the target that writes it. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { zeroLeaf } from '../../src/disk/merkle.ts';
import { digest } from '../../src/kernels/hash.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { IndexReader } from '../../src/store/index-reader.ts';
import { openDataDirectory } from '../../src/store/machine-directory.ts';
import { openMachineStore } from '../../src/store/machine-open.ts';
import { MachineView } from '../../src/store/machine-view.ts';
import { Vault } from '../../src/store/vault.ts';
import { codec, sealedHeaderBytes, sealedRowBytes, writeSealedHeader, writeSealedRow } from '../../src/wire/sealed.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { runOf } from '../layers.ts';

const machine = 'm1';

/** A SEALED body with one record: block 0 is all zero. */
function zeroBlock(seq: number): Uint8Array {
  const body = new Uint8Array(sealedHeaderBytes + sealedRowBytes);
  const nothing = { storedLength: 0, rawLength: 0, tag: new Uint8Array(16), leaf: zeroLeaf };
  writeSealedRow(body, sealedHeaderBytes, { block: 0, pageMask: 0xffff, codec: codec.zero, nonce: 0, ...nothing });
  const rows = body.subarray(sealedHeaderBytes);
  writeSealedHeader(body, 0, { seq, batch: 0, count: 1, plainBytes: 4096, digest: digest(rows) });
  return body;
}

describe('a machine view', () => {
  let home = '';
  const undo: (() => Promise<void>)[] = [];
  beforeEach(async () => {
    home = await mkdtemp(path.join(tmpdir(), 'tidemark-view-'));
  });
  afterEach(async () => {
    vi.restoreAllMocks();
    for (const step of undo.splice(0).reverse()) await step();
    await rm(home, { recursive: true, force: true });
  });

  /** A machine with one point of an empty disk, closed in good order. */
  async function onePoint(): Promise<Vault> {
    const data = await openDataDirectory({ files, clock, path: home, identity: { pid: 1, role: 'test', since: '' } });
    const vault = await Vault.openOrCreate({ files, random, keyFile: path.join(home, 'vault.key') });
    await data.create(vault.id);
    const fatal = (problem: Error): never => {
      throw problem;
    };
    const { store } = await openMachineStore({ files, clock, random, vault, data, machine, bootId: 'boot', fatal });
    const epoch = await store.acquireEpoch('aa');
    const size = 16 * 4096;
    const disk = await store.openDisk({ name: 'vda', size, blockSize: 4096 });
    const seq = seqOf(epoch, store.nextCounter(epoch));
    const { version } = disk.keys;
    await disk.beginLayer({ seq, kind: 'initial', base: null, salt: random.bytes(32), keyVersion: version, epoch });
    await disk.appendBatch(zeroBlock(seq)).durable;
    const root = Buffer.from(disk.leaves.workingRoot()).toString('hex');
    const part = {
      store: disk,
      size,
      root,
      layers: runOf([seq]),
      kind: 'initial',
      records: 1,
      payloadBytes: 0,
    } as const;
    const outcome = await store.commit({ cutTimeMs: 1, consistency: 'crash', epoch, disks: [part] });
    expect(outcome).toEqual({ kind: 'committed', point: 1 });
    await store.close();
    await data.close();
    return vault;
  }

  async function read(vault: Vault): Promise<{ ownIndex: boolean; scratch: string[] }> {
    const scratch = path.join(home, 'scratch');
    const view = await MachineView.open({ files, clock, data: home, machine, bootId: 'boot', scratch });
    undo.push(() => view.close());
    await view.diskAt(view.disk('vda'), view.choosePoint('latest'), vault);
    const built = (await files.exists(scratch)) ? await readdir(scratch) : [];
    return { ownIndex: view.hasOwnIndex, scratch: built };
  }

  /** The index says that nothing was applied for its first `looks` looks, as one whose transaction is still under way. */
  function lagging(looks: number): void {
    let seen = 0;
    const position = vi.spyOn(IndexReader.prototype, 'position', 'get');
    position.mockImplementation(() => {
      seen += 1;
      return seen <= looks ? { segment: 0, offset: 0 } : { segment: 1, offset: 2 ** 31 };
    });
  }

  it('opened milliseconds after a commit built the whole index anew beside one that had it a moment later', async () => {
    const vault = await onePoint();
    lagging(3);
    expect(await read(vault)).toEqual({ ownIndex: false, scratch: [] });
  });

  it('does not wait for ever for an index that stays behind', async () => {
    const vault = await onePoint();
    lagging(1_000);
    expect(await read(vault)).toEqual({ ownIndex: true, scratch: [expect.stringMatching(/^m1-/)] });
  });
});

/**
 * The files that are replaced whole lose power at every sync point: the store's directory with vault key and machines, credentials and authority,
 * the agent's state of a disk. What was acknowledged is there, of the rest the old or the new, and every start succeeds.
 *
 * Not here: the process server has no durable format (its spool will be segments). Control keeps records and registration keys in LMDB, synced
 * at every commit by LMDB itself, whose mapped file no simulated disk can stand in for; its `control.json` and operator token are `replaceFile` too.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterAll, expect } from 'vitest';
import { newDiskState, readDiskState, writeDiskState } from '../../src/agent/disk-state.ts';
import { merkleHashes } from '../../src/kernels/hash.ts';
import { geometryOf } from '../../src/disk/geometry.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { LeafFile } from '../../src/store/leaf-file.ts';
import { openDataDirectory, readMachineFacts, type MachineFacts } from '../../src/store/machine-directory.ts';
import { Vault } from '../../src/store/vault.ts';
import { openAuthority, type Authority } from '../../src/transport/authority.ts';
import { loadCredentials, makeRequest, storeCertificate } from '../../src/transport/credentials.ts';
import { tell } from './story.ts';

const scratch = mkdtempSync(path.join(tmpdir(), 'tidemark-crash-'));
afterAll(() => {
  rmSync(scratch, { recursive: true, force: true });
});

{
  const data = path.join(scratch, 'srv/tidemark/data');
  // The lock is taken on the real directory.
  mkdirSync(data, { recursive: true });
  const facts = (disks: number): MachineFacts => ({
    id: '11'.repeat(16),
    disks: Array.from({ length: disks }, (_, no) => ({
      no,
      id: '22'.repeat(16),
      name: `vd${no}`,
      blockSize: 65_536,
      keys: [{ version: 1, diskKey: 'ab', leafKey: 'cd' }],
    })),
  });
  const identity = { pid: process.pid, role: 'test', since: '' };
  const keyFile = path.join(data, 'vault.key');
  const start = async (files: Files) => {
    const opened = await openDataDirectory({ files, clock: systemClock, path: data, identity });
    try {
      const vault = await Vault.openOrCreate({ files, random: systemRandom, keyFile, expected: opened.facts?.vault });
      if (!opened.facts) await opened.create(vault.id);
      return { opened, vault };
    } finally {
      await opened.close();
    }
  };
  const machine = (disks: number) => async (files: Files) => {
    await (await start(files)).opened.writeMachine('m1', facts(disks));
    return String(disks);
  };
  tell('the directory of a store: its vault, its machines, whether the recovery file was written', {
    name: 'store directory',
    directories: [scratch],
    deeds: () => [
      ['vault', async (files) => (await start(files)).vault.id],
      ['machine', machine(1)],
      ['machine', machine(2)],
      [
        'recovery',
        async (files) => {
          const { vault } = await start(files);
          await vault.exportRecovery({ files, to: `${scratch}/key`, dataDirectory: data, wallMs: 1 });
          return 'written';
        },
      ],
      ['machine', machine(3)],
    ],
    judge: async (files, notes) => {
      const { vault } = await start(files);
      if (notes['vault'] !== undefined && vault.id !== notes['vault']) throw new Error('another vault');
      const disks = (await readMachineFacts(files, data, 'm1'))?.disks.length ?? 0;
      const known = Number(notes['machine'] ?? 0);
      if (disks !== known && disks !== known + 1) throw new Error(`${disks} disks, ${known} were acknowledged`);
      if (notes['recovery'] === undefined) return;
      if (!(await vault.recoveryWritten(files, data))) throw new Error('the recovery file is forgotten');
      const recovered = await Vault.open({ files, random: systemRandom, keyFile: `${scratch}/key` });
      if (recovered.id !== vault.id) throw new Error('the recovery file is of another vault');
    },
  });
}

{
  let opening: Promise<Authority> | null = null;
  const authorityOf = (): Promise<Authority> =>
    (opening ??= openAuthority(posixFiles, path.join(scratch, 'authority'), systemClock));
  const home = '/var/lib/tidemark/agent';
  const enrol = async (files: Files) => {
    const csrPem = await makeRequest(files, home, 'web1');
    const issued = await (await authorityOf()).issue({ csrPem, role: 'agent', name: 'web1', days: 30 });
    await storeCertificate(files, home, issued, systemClock.wallMs());
    return issued.certPem;
  };
  const key = async (files: Files) => {
    await makeRequest(files, home, 'web1');
    return (await files.readWhole(`${home}/key.pem`)).toString();
  };
  tell('credentials: a key that was named in a request is kept, a certificate that was stored is used', {
    name: 'credentials',
    directories: ['/var'],
    deeds: () => [
      ['key', key],
      ['certificate', enrol],
      ['renewed', enrol],
    ],
    judge: async (files, notes) => {
      if (notes['key'] !== undefined && (await key(files)) !== notes['key']) throw new Error('another key');
      if (notes['certificate'] === undefined) {
        await enrol(files);
        return;
      }
      const { certPem } = await loadCredentials(files, home, systemClock.wallMs());
      const newest = notes['renewed'] ?? notes['certificate'];
      if (notes['renewed'] !== undefined && certPem !== newest) throw new Error('the new certificate is lost');
    },
  });
}

{
  const home = '/var/lib/tidemark/authority';
  const open = (files: Files): Promise<Authority> => openAuthority(files, home, systemClock);
  tell('the authority of a site: one that was shown stays', {
    name: 'authority',
    directories: ['/var'],
    deeds: () => [['authority', async (files) => (await open(files)).fingerprint]],
    judge: async (files, notes) => {
      const { fingerprint } = await open(files);
      if (notes['authority'] !== undefined && fingerprint !== notes['authority']) throw new Error('another authority');
    },
  });
}

{
  const write = (point: number) => async (files: Files) => {
    await writeDiskState(files, '/state', 'vda', { ...newDiskState(65_536), point });
    return String(point);
  };
  tell('the state of a disk at the agent: the last one acknowledged, or the one on its way', {
    name: 'disk state',
    directories: ['/state'],
    deeds: () => [1, 2, 3].map((point) => ['point', write(point)] as const),
    judge: async (files, notes) => {
      const point = (await readDiskState(files, '/state', 'vda'))?.point ?? 0;
      const known = Number(notes['point'] ?? 0);
      if (point !== known && point !== known + 1) throw new Error(`point ${point}, ${known} was acknowledged`);
    },
  });
}

{
  const geometry = geometryOf(3000 * 4096, 4096);
  const open = (files: Files): Promise<LeafFile> =>
    LeafFile.open({ files, path: '/state/vda.leaves', geometry, hashes: merkleHashes });
  const rootOf = (leaves: LeafFile): string => Buffer.from(leaves.committedRoot()).toString('hex');
  const found = { last: 0, other: 0 };
  tell('a leaf file: after a crash outside a commit it makes the root of the last one', {
    name: 'leaf file',
    directories: ['/state'],
    deeds: () => {
      let leaves: LeafFile | null = null;
      const commit = (round: number) => async (files: Files) => {
        leaves ??= await open(files);
        for (let block = 0; block < 2500; block += 700 - round * 90) leaves.set(block, new Uint8Array(32).fill(round));
        await leaves.commit();
        return rootOf(leaves);
      };
      const close = async () => {
        await leaves?.close();
        return '';
      };
      return [...[1, 2, 3].map((round) => ['root', commit(round)] as const), ['closed', close]];
    },
    judge: async (files, notes) => {
      // Its name is not made durable: a leaf file that is gone is a cache that is gone.
      const there = files.has('/state/vda.leaves');
      const root = rootOf(await open(files));
      const last = notes['root'] ?? '';
      if (root === last) found.last += 1;
      else found.other += 1;
      if (notes['closed'] !== undefined && there && root !== last) throw new Error('the root is another one');
    },
  });
  afterAll(() => {
    // It did tear.
    expect(Math.min(found.last, found.other)).toBeGreaterThan(0);
  });
}

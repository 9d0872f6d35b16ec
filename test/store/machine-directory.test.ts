import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import {
  listMachines,
  machinePaths,
  openDataDirectory,
  readMachineFacts,
  readStoreFacts,
  type DataDirectory,
  type MachineFacts,
} from '../../src/store/machine-directory.ts';

let data = '';
const open: DataDirectory[] = [];
const vault = '0f'.repeat(16);
const identity = { pid: process.pid, role: 'target', since: '2026-01-02T03:04:05.000Z' };

beforeEach(async () => {
  data = `${await mkdtemp(`${tmpdir()}/tidemark-data-`)}/store`;
});
afterEach(async () => {
  for (const directory of open.splice(0)) await directory.close();
  await rm(data.replace(/\/store$/, ''), { recursive: true, force: true });
});

async function opened(): Promise<DataDirectory> {
  const directory = await openDataDirectory({ files: posixFiles, clock: systemClock, path: data, identity });
  open.push(directory);
  return directory;
}

const machine: MachineFacts = {
  id: 'ab'.repeat(16),
  disks: [
    {
      no: 0,
      id: 'cd'.repeat(16),
      name: 'vda',
      blockSize: 65536,
      keys: [{ version: 1, diskKey: 'aa'.repeat(72), leafKey: 'bb'.repeat(72) }],
    },
  ],
};

it('is made on first start and read back on every later one', async () => {
  const first = await opened();
  expect(first.facts).toBeNull();
  const facts = await first.create(vault);
  await first.writeMachine('db-1', machine);
  await first.writeMachine('app.2', { ...machine, disks: [] });
  await first.close();
  const second = await opened();
  expect(second.facts).toEqual(facts);
  expect(await readStoreFacts(posixFiles, data)).toEqual({ format: 2, vault, created: facts.created });
  expect(await listMachines(posixFiles, data)).toEqual(['app.2', 'db-1']);
  expect(await readMachineFacts(posixFiles, data, 'db-1')).toEqual(machine);
  expect(await readMachineFacts(posixFiles, data, 'other')).toBeNull();
  await expect(second.create(vault)).rejects.toMatchObject({ code: 'bad-argument' });
});

it('has one writer, and readers beside it', async () => {
  const first = await opened();
  await first.create(vault);
  await expect(opened()).rejects.toMatchObject({ code: 'locked' });
  expect((await readStoreFacts(posixFiles, data))?.vault).toBe(vault);
  await first.close();
  await opened();
});

it('of another version is refused with a remedy, left as it is and not kept locked', async () => {
  const first = await opened();
  await first.create(vault);
  await first.close();
  const text = JSON.stringify({ format: 1, shape: 'unknown' });
  await writeFile(`${data}/tidemark.json`, text);
  for (let again = 0; again < 2; again += 1) {
    await expect(opened()).rejects.toMatchObject({
      code: 'wrong-version',
      remedy: expect.stringContaining('version') as string,
    });
  }
  expect(await readFile(`${data}/tidemark.json`, 'utf8')).toBe(text);
});

it('that is not what it says it is, is damage', async () => {
  const first = await opened();
  await first.create(vault);
  await first.writeMachine('db', machine);
  await writeFile(machinePaths(data, 'db').directory + '/machine.json', '{"id": 1}');
  await expect(readMachineFacts(posixFiles, data, 'db')).rejects.toMatchObject({ code: 'damaged' });
  for (const text of ['', '{', '{"format": 2}', `{"format": 2, "vault": "x", "created": 1}`, '[]']) {
    await writeFile(`${data}/tidemark.json`, text);
    await expect(readStoreFacts(posixFiles, data), text).rejects.toMatchObject({ code: 'damaged' });
  }
  await rm(`${data}/tidemark.json`);
  await expect(readStoreFacts(posixFiles, data)).rejects.toThrow(/is missing, though there are machines/);
});

it('refuses names that are no machine names, and facts that contradict themselves', async () => {
  for (const name of ['', '..', '.', 'a/b', 'A', '-a', 'a'.repeat(64), 'a\0', '../x'])
    expect(() => machinePaths(data, name), name).toThrow(/is not a machine name/);
  expect(machinePaths('/d', 'a'.repeat(63)).segments).toBe(`/d/machines/${'a'.repeat(63)}/segments`);
  const directory = await opened();
  const [disk] = machine.disks;
  await expect(
    directory.writeMachine('db', { ...machine, disks: disk ? [disk, { ...disk, name: 'vdb' }] : [] }),
  ).rejects.toThrow(/stands twice/);
});

/** Machines that start by UEFI: the firmware finds what to start by itself, and each failover has variables of its own. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { proveBoot } from '../../src/recovery/boot.ts';
import { parseProbe } from '../../src/recovery/probe.ts';
import { preparedUefi, prepareUefi } from '../../src/recovery/uefi.ts';
import type { MachineDefinition } from '../../src/wire/definition.ts';
import { makeUefiDisk, requireUefi } from '../guest/uefi-disk.ts';
import { plain } from './definitions.ts';
import { FailoverScene, machine } from './failover-scene.ts';

const definition: MachineDefinition = { ...plain, firmware: 'uefi', memoryBytes: 512 * MiB };

async function newDirectory(): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-uefi-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

describe.skipIf(!requireUefi('qemu-nbd'))('a UEFI machine', () => {
  it('starts from its disk by the default path', { timeout: 150_000 }, async () => {
    const directory = await newDirectory();
    const [image, socket] = [path.join(directory, 'disk.raw'), path.join(directory, 'disk.sock')];
    await makeUefiDisk(image, 'by UEFI', path.join(directory, 'scratch'));
    const server = spawn('qemu-nbd', [
      '--persistent',
      '--format=raw',
      '--export-name=root',
      `--socket=${socket}`,
      image,
    ]);
    onTestFinished(() => void server.kill('SIGKILL'));
    await vi.waitFor(async () => expect(await posixFiles.exists(socket)).toBe(true), { timeout: 10_000 });
    const disks = [{ name: 'root', uri: `nbd+unix:///root?socket=${socket}` }];
    const uefi = await prepareUefi(posixFiles, directory);
    const before = await readFile(uefi.variables);
    const proof = await proveBoot({
      machine: { title: 'web-test-1', definition, disks, uefi },
      probe: parseProbe('serial:marker: by UEFI'),
      answerSeconds: 120,
      directory: path.join(directory, 'boot'),
      beganMs: systemClock.monotonicMs(),
      files: posixFiles,
      clock: systemClock,
      signal: new AbortController().signal,
    });
    expect(proof).toMatchObject({ answered: true, detail: 'marker: by UEFI' });
    // The firmware has written to its own copy; who prepares again finds that one.
    expect((await readFile(uefi.variables)).equals(before)).toBe(false);
    const written = await readFile(uefi.variables);
    expect(await prepareUefi(posixFiles, directory)).toEqual(uefi);
    expect((await readFile(uefi.variables)).equals(written)).toBe(true);
  });

  it('has a QEMU command with variables of its own, which go with the failover', { timeout: 60_000 }, async () => {
    const scene = await FailoverScene.make({ ...definition, disks: ['vda'] });
    onTestFinished(() => scene.end());
    const [one, other] = [await scene.ok('failover', 'test', machine), await scene.ok('failover', 'test', machine)];
    for (const { qemu, directory } of [one, other]) expect(qemu).toContain(path.join(directory, 'uefi-variables.fd'));
    // Not started, but QEMU has opened firmware, variables and disk when it takes the key that ends it.
    const line = (one.qemu ?? '').replace('-accel kvm ', '');
    const run = spawnSync('sh', ['-c', `${line} -S -display none`], { input: '\x01x', timeout: 30_000 });
    expect({ status: run.status, said: run.stderr.toString() }).toEqual({ status: 0, said: '' });
    expect(await scene.list()).toEqual([one, other]);
    await scene.ok('failover', 'cleanup', machine, '--all');
    expect(await scene.failovers()).toEqual([]);
  });
});

describe('without a firmware here', () => {
  it('nothing is prepared, and what was prepared elsewhere is no use', async () => {
    const directory = await newDirectory();
    const bare = {
      ...posixFiles,
      exists: async (file: string) => file.startsWith(directory) && posixFiles.exists(file),
    };
    await expect(prepareUefi(bare, directory)).rejects.toMatchObject({ code: 'not-found' });
    await writeFile(path.join(directory, 'uefi-variables.fd'), '');
    expect(await preparedUefi(bare, directory)).toBeNull();
  });
});

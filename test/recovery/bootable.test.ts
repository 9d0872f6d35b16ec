/** What keeps a machine from being started is said before a test is made of it. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { exitCodes } from '../../src/fatal.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { checkBootable } from '../../src/recovery/boot.ts';
import { parseProbe } from '../../src/recovery/probe.ts';
import { definitionSchema } from '../../src/wire/definition.ts';
import { FailoverScene, machine } from './failover-scene.ts';

let scene: FailoverScene;
beforeEach(async () => {
  scene = await FailoverScene.make();
});
afterEach(() => scene.end());

it('a machine that nobody described is not started, and no test of it is made', async () => {
  const run = await scene.run('failover', 'test', machine, '--boot');
  expect([run.code, run.stdout]).toEqual([exitCodes.usage.code, '']);
  expect(run.stderr).toContain('nobody said what m1 is as of point 3');
  expect(await scene.failovers()).toEqual([]);
  const unknown = await scene.run('failover', 'test', 'm2', '--boot');
  expect([unknown.code, unknown.stderr]).toEqual([
    exitCodes['not-found'].code,
    expect.stringContaining('no machine m2'),
  ]);
});

it('QEMU, the firmware and a card for the probe are looked for before anything is started', async () => {
  const bios = definitionSchema.parse({
    cpus: 1,
    memoryBytes: 2 ** 28,
    type: 'pc',
    firmware: 'bios',
    bus: 'virtio',
    disks: ['vda'],
    nics: [],
  });
  const serial = parseProbe('serial:login:');
  // There is a program of that name on every system.
  await checkBootable(posixFiles, bios, serial, 'sh');
  await expect(checkBootable(posixFiles, bios, serial, '/nowhere/qemu')).rejects.toMatchObject({ code: 'not-found' });
  await expect(checkBootable(posixFiles, bios, parseProbe('tcp:22'), 'sh')).rejects.toMatchObject({
    code: 'bad-argument',
  });
  const bare: Files = { ...posixFiles, exists: () => Promise.resolve(false) };
  const uefi = { ...bios, firmware: 'uefi' as const };
  await expect(checkBootable(bare, uefi, serial, 'sh')).rejects.toThrow('no UEFI firmware');
  await checkBootable({ ...posixFiles, exists: () => Promise.resolve(true) }, uefi, serial, 'sh');
});

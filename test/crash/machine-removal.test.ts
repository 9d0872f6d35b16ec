/** A machine is deleted, and whatever happens meanwhile it is there whole or not at all; what is left of it is gone after the next start. */
import path from 'node:path';
import { expect, test } from 'vitest';
import type { Files } from '../../src/posix/files.ts';
import { listMachines } from '../../src/store/machine-directory.ts';
import { finishRemovals, removeMachine } from '../../src/store/machine-removal.ts';
import { SimulatedFiles } from '../simulated-files.ts';
import { tell } from './story.ts';

const data = '/srv/data';
const machines = path.join(data, 'machines');
const parts = ['machine.json', 'points.log', 'segments/1.seg', 'segments/2.seg', 'failovers/count.json'];

async function write(files: Files, machine: string): Promise<string> {
  const directory = path.join(machines, machine);
  for (const part of parts) {
    await files.makeDirectory(path.dirname(path.join(directory, part)));
    await files.replaceFile(path.join(directory, part), Buffer.from(`${machine} ${part}`));
  }
  return 'whole';
}

/** Which parts of it there are. */
async function found(files: Files, machine: string): Promise<string[]> {
  const there: string[] = [];
  for (const part of parts) if (await files.exists(path.join(machines, machine, part))) there.push(part);
  return there;
}

tell('a machine that is deleted: all of it is there, or nothing', {
  name: 'removal of a machine',
  directories: [machines],
  deeds: () => [
    ['m1', (files) => write(files, 'm1')],
    ['m2', (files) => write(files, 'm2')],
    [
      'removed',
      async (files) => {
        await removeMachine(files, data, 'm1');
        return 'm1';
      },
    ],
  ],
  judge: async (files, notes) => {
    await finishRemovals(files, data);
    const names = await files.list(machines);
    if (names.some((name) => name.startsWith('.'))) throw new Error(`something is left: ${names.join(', ')}`);
    if (notes['m2'] !== undefined && (await found(files, 'm2')).length < parts.length) throw new Error('m2 is harmed');
    if (notes['m1'] === undefined) return;
    const left = await found(files, 'm1');
    if (left.length !== 0 && left.length !== parts.length) throw new Error(`of m1 there is only ${left.join(', ')}`);
    if (notes['removed'] !== undefined && left.length > 0) throw new Error('m1 is there again');
  },
});

test('what an attempt that failed left goes with the next one', async () => {
  const files = new SimulatedFiles([machines]);
  await write(files, 'm1');
  files.fault = (operation, filePath) =>
    operation === 'remove' && filePath.endsWith('2.seg') ? { kind: 'error', code: 'EIO' } : null;
  await expect(removeMachine(files, data, 'm1')).rejects.toMatchObject({ code: 'EIO' });
  expect(await listMachines(files, data)).toEqual([]);
  files.fault = () => null;
  await removeMachine(files, data, 'm1');
  expect(await files.list(machines)).toEqual([]);
});

/** What a target takes to be itself again after its index is lost, and a machine to be started from one of its points. */
import { readdir, rm, stat } from 'node:fs/promises';
import * as path from 'node:path';
import { commandOk, tidemark } from '../demo/process.ts';
import type { Site } from '../demo/site.ts';
import { missingPrograms } from '../demo/programs.ts';

export interface RebuildFigures {
  /** Of all segment files. */
  readonly storedBytes: number;
  /** From the start of the target until it takes connections, its index deleted; less the same with its index. */
  readonly seconds: number;
  readonly gigabytesPerSecond: number;
}

async function startSeconds(site: Site): Promise<number> {
  const started = performance.now();
  await site.startTarget();
  const seconds = (performance.now() - started) / 1000;
  await site.role('target').stop();
  return seconds;
}

/** The target does not run. */
export async function measureRebuild(site: Site): Promise<RebuildFigures> {
  const machine = path.join(site.targetData, 'machines', site.options.machine);
  const segments = path.join(machine, 'segments');
  let storedBytes = 0;
  for (const name of await readdir(segments)) storedBytes += (await stat(path.join(segments, name))).size;
  const withIndex = await startSeconds(site);
  await rm(path.join(machine, 'index'), { recursive: true });
  const seconds = (await startSeconds(site)) - withIndex;
  return {
    storedBytes,
    seconds: Number(seconds.toFixed(2)),
    gigabytesPerSecond: Number((storedBytes / 1e9 / seconds).toFixed(2)),
  };
}

/** From the command to the machine's first words, which are `says`; null: there is no QEMU. */
export async function measureBoot(site: Site, point: number, says: string): Promise<number | null> {
  if ((await missingPrograms('qemu-system-x86_64')).length > 0) return null;
  const { machine } = site.options;
  const place = ['--data', site.targetData, '--json'];
  const words = ['failover', 'test', machine, '--point', String(point), '--boot', '--probe', `serial:${says}`];
  try {
    const text = await commandOk(tidemark, [...words, ...place]);
    return (JSON.parse(text) as { boot: { seconds: number } }).boot.seconds;
  } finally {
    await commandOk(tidemark, ['failover', 'cleanup', machine, '--all', ...place]);
  }
}

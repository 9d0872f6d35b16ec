/**
 * A test failover from an older point while everything else goes on: its machine is started where there is QEMU, its disk compared with what the
 * source was then and written to, and all of it removed again.
 */
import { open } from 'node:fs/promises';
import { systemClock } from '../../src/kit/clock.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { commandOk, tidemark } from './process.ts';
import { missingPrograms } from './programs.ts';
import type { Site } from './site.ts';

export interface FailoverFigures {
  readonly point: number;
  /** What the export shows is what the source held at the point. */
  readonly identical: boolean;
  /** What was written to it is read again. */
  readonly writable: boolean;
  /** From the command to the machine's first words, which are `said`; null: not started. */
  readonly rtoSeconds: number | null;
  readonly said: string | null;
  readonly accelerator: string | null;
}

interface Started {
  readonly id: string;
  readonly disks: readonly { readonly uri: string }[];
  readonly boot?: { readonly detail: string; readonly seconds: number; readonly accelerator: string };
}

const stepBytes = 4 * 1024 * 1024;

async function sameAs(file: string, client: NbdClient): Promise<boolean> {
  const expected = await open(file, 'r');
  try {
    const { size } = await expected.stat();
    const step = Buffer.alloc(stepBytes);
    for (let at = 0; at < size; at += stepBytes) {
      const length = Math.min(stepBytes, size - at);
      await expected.read(step, 0, length, at);
      if (!step.subarray(0, length).equals(await client.read(at, length))) return false;
    }
    return true;
  } finally {
    await expected.close();
  }
}

async function takesWrites(client: NbdClient): Promise<boolean> {
  const written = Buffer.alloc(stepBytes, 'written in a test failover ');
  await client.write(written, 0);
  return written.equals(await client.read(0, stepBytes));
}

/** `source`: file of what the disk was at the point. `says`: what the machine says when it is started; null: it is not. */
export async function testFailover(
  site: Site,
  point: number,
  source: string,
  says: string | null,
): Promise<FailoverFigures> {
  const { machine } = site.options;
  const place = ['--data', site.targetData, '--json'];
  const hasQemu = (await missingPrograms('qemu-system-x86_64')).length === 0;
  const boot = says !== null && hasQemu ? ['--boot', '--probe', `serial:${says}`] : [];
  const words = ['failover', 'test', machine, '--point', String(point), ...boot, ...place];
  const started = JSON.parse(await commandOk(tidemark, words)) as Started;
  try {
    const { pathname, searchParams } = new URL(started.disks[0]?.uri ?? '');
    const unixPath = searchParams.get('socket') ?? '';
    const client = await connectNbd({ unixPath }, { exportName: pathname.slice(1), clock: systemClock });
    const [identical, writable] = [await sameAs(source, client), await takesWrites(client)];
    await client.close();
    return {
      point,
      identical,
      writable,
      rtoSeconds: started.boot?.seconds ?? null,
      said: started.boot?.detail ?? null,
      accelerator: started.boot?.accelerator ?? null,
    };
  } finally {
    await commandOk(tidemark, ['failover', 'cleanup', machine, started.id, ...place]);
  }
}

/** A story of files that are replaced whole: deeds one after another, each acknowledged; crashed at every sync point, and with every operation failing once. */
import { afterAll, expect, test } from 'vitest';
import type { Files } from '../../src/posix/files.ts';
import { Dice } from '../simulated-bytes.ts';
import { SimulatedFiles } from '../simulated-files.ts';
import { crashAll, noTotals, Recording, soak, type Judge } from './crash-points.ts';
import { failAt } from './faults.ts';

const totals = noTotals();
let faults = 0;
afterAll(() => {
  console.info(`small files: ${JSON.stringify(totals)}; operations that failed: ${faults}`);
});

/** What was acknowledged so far, by name; the last thing begun and not acknowledged under `begun`. */
export type Notes = Readonly<Record<string, string>>;

export type Deed = readonly [note: string, deed: (files: Files) => Promise<string>];

export interface Story {
  readonly name: string;
  /** Durable from the start. */
  readonly directories: readonly string[];
  /** Each is begun, then acknowledged as what it answers. Called once per life of the process. */
  readonly deeds: () => readonly Deed[];
  readonly judge: Judge<Notes>;
}

async function crashed({ name, directories, deeds, judge }: Story): Promise<void> {
  const files = new SimulatedFiles(directories);
  let notes: Notes = {};
  const recording = new Recording(() => notes);
  recording.watch(() => files);
  for (const [note, deed] of deeds()) {
    const said = await deed(files);
    notes = { ...notes, [note]: said };
  }
  recording.add('the end', files);
  await crashAll(recording, { name, lots: soak ? 40 : 4, againEvery: 8, judge, totals });
}

/** Every operation that changes the disk fails once; then the power goes, or the process, or neither and all is begun anew. */
async function failed({ name, directories, deeds, judge }: Story): Promise<void> {
  for (let n = 1; ; n += 1) {
    const files = new SimulatedFiles(directories);
    const fault = failAt(files, n);
    const door = fault.listener.at(files);
    let notes: Notes = {};
    let told: unknown = null;
    for (const [note, deed] of deeds()) {
      try {
        const said = await deed(door);
        notes = { ...notes, [note]: said };
      } catch (error) {
        told = error;
        break;
      }
    }
    if (fault.fired === null) {
      expect(n).toBeGreaterThan(10);
      return;
    }
    faults += 1;
    const what = `${name}, operation ${n} (${fault.fired})`;
    fault.expectHeard();
    // Whoever asked for it was told, unless nothing depended on it.
    if (told === null && !/^(close|remove) /.test(fault.fired)) throw new Error(`${what}: nobody was told`);
    expect(files.violations, what).toEqual([]);
    files.fault = () => null;
    const fresh = files.kill();
    for (const survivor of [files.afterPowerLoss(new Dice(n)), files.afterPowerLoss(new Dice(n + 1000)), fresh.copy()])
      await judge(survivor, notes, 'power').catch((error: unknown) => {
        throw new Error(`${what}, after ${JSON.stringify(notes)}: ${String(error)}`, { cause: error });
      });
    for (const [, deed] of deeds()) await deed(fresh);
  }
}

export function tell(title: string, story: Story): void {
  test(`${title} (power)`, () => crashed(story), 300_000);
  test(`${title} (the n-th operation fails)`, () => failed(story), 300_000);
}

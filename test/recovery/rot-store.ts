/** A folded store for tests that change its files (`rot-mutations.ts`), and what of these files is relied on, as FORMAT.md says it. */
import { readdir, readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { posixFiles as files } from '../../src/posix/files.ts';
import { readPoints } from '../../src/store/points-log.ts';
import type { MachineLife } from '../store/machine-fixture.ts';
import { plain } from './definitions.ts';
import { blocks, PointsMade } from './points-made.ts';

const plan = [
  [...blocks(0, 60)],
  blocks(10, 20, 2, 0x00ff),
  blocks(0, 50),
  blocks(1000, 12),
  blocks(0, 30, 1, 0xf000),
  blocks(30, 20),
  blocks(0, 10, 3, 0x0ff0),
  blocks(1990, 8),
];

/** Points 1 to 3 are retired, the first segment is removed; what is left of it is moved. */
const after = {
  async 4(life: MachineLife): Promise<void> {
    await life.prove();
    await life.pin(2, true);
    await life.pin(4, true);
    await life.fold();
  },
  async 6(life: MachineLife): Promise<void> {
    await life.prove();
    const failover = { id: 'unplanned-1', point: 6, atMs: 1 };
    await life.store.recordAside({ type: 'failover', body: { ...failover, step: 'begun', generation: 1 } });
    await life.store.recordAside({ type: 'failover', body: { ...failover, step: 'cancelled', generation: 2 } });
    await life.pin(2, false);
    await life.pin(5, true);
    await life.fold();
  },
};

interface Relied {
  readonly knownEnds: ReadonlyMap<string, number>;
  readonly retired: readonly number[];
}

export class RotStore {
  readonly made: PointsMade;
  /** Another one's. */
  readonly other: PointsMade;
  /** By segment: every byte below is relied on. */
  readonly knownEnds: ReadonlyMap<string, number>;
  readonly retired: readonly number[];
  /** Where the records of `points.log` begin. */
  readonly records: readonly number[];
  /** Of each. */
  readonly types: readonly number[];
  /** Where the last record of a new epoch ends. */
  readonly lastEpochEnd: number;

  private constructor(made: PointsMade, other: PointsMade, { knownEnds, retired }: Relied, log: Buffer) {
    this.made = made;
    this.other = other;
    this.knownEnds = knownEnds;
    this.retired = retired;
    this.records = [...log.keys()].filter((at) => log.subarray(at, at + 4).toString('latin1') === 'TMPL');
    this.types = this.records.map((at) => log.readUInt16LE(at + 4));
    this.lastEpochEnd = this.records[this.types.lastIndexOf(1) + 1] ?? 0;
  }

  static async make(): Promise<RotStore> {
    const story = { restartEvery: 2, keepEvery: 2, unlisted: blocks(500, 6), definition: plain, after };
    const made = await PointsMade.make(plan, story);
    const other = await PointsMade.make([blocks(0, 60), blocks(5, 10)]);
    return new RotStore(made, other, await reliedOf(made), await readFile(fileOf(made, 'points.log')));
  }

  /** Copies of the target's directory after some of the points. */
  get older(): readonly string[] {
    return this.made.kept;
  }

  /** Of the machine. */
  file(...names: string[]): string {
    return fileOf(this.made, ...names);
  }

  /** Names of their files, in order. */
  async segments(): Promise<string[]> {
    return (await readdir(this.file('segments'))).filter((name) => name.endsWith('.seg')).sort();
  }

  async remove(): Promise<void> {
    await this.made.remove();
    await this.other.remove();
  }
}

function fileOf({ data }: PointsMade, ...names: string[]): string {
  return path.join(data, 'machines', 'm1', ...names);
}

async function reliedOf(made: PointsMade): Promise<Relied> {
  const knownEnds = new Map<string, number>();
  for (const name of await readdir(fileOf(made, 'segments'))) {
    const next = fileOf(made, 'segments', `${String(Number(name.slice(0, 6)) + 1).padStart(6, '0')}.seg`);
    // Of the next segment's header: what of this one was durable before.
    if (await files.exists(next)) knownEnds.set(name, (await readFile(next)).readUInt32LE(12));
  }
  const facts = JSON.parse(await readFile(fileOf(made, 'machine.json'), 'utf8')) as { id: string };
  const machineId = Buffer.from(facts.id, 'hex');
  const { view } = await readPoints({ files, path: fileOf(made, 'points.log'), machineId });
  for (const { segment, length } of view.extents) {
    const name = `${String(segment).padStart(6, '0')}.seg`;
    if (view.removed.has(segment)) continue;
    knownEnds.set(name, Math.max(knownEnds.get(name) ?? 0, length));
  }
  return { knownEnds, retired: view.points.map(({ point }) => point).filter((point) => view.isRetired(point)) };
}

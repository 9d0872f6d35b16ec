/** A machine's store on a simulated disk, driven one operation at a time, and what a crash of it may leave. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { describeLayers, sameLayers, withLayer, type LayerRun } from '../../src/kernels/layer-run.ts';
import type { Files } from '../../src/posix/files.ts';
import { type Dice } from '../simulated-bytes.ts';
import { SimulatedFiles } from '../simulated-files.ts';
import { MachineLife, type BlockChange } from '../store/machine-fixture.ts';
import { keepAll } from '../../src/store/retention.ts';
import { leaveMapped, mappedBytes, withRealIndex } from './real-index.ts';

const scratch = mkdtempSync(path.join(tmpdir(), 'tidemark-crash-'));
export function removeScratch(): void {
  rmSync(scratch, { recursive: true, force: true });
}

const index = path.join(scratch, 'data/machines/m1/index');

export interface MachineModel {
  /** Content of the disk as of each point; those from `committed` on were not acknowledged. */
  readonly points: readonly ReadonlyMap<number, Buffer>[];
  readonly committed: number;
  /** Layers whose one batch was acknowledged and that no acknowledged point lists. */
  readonly pending: LayerRun | null;
  /** Of the disk, what its newest layers wrote. */
  readonly image: ReadonlyMap<number, Buffer>;
  /** Points that may be retired by now; all others are kept. */
  readonly retirable: ReadonlySet<number>;
  readonly mapped: Buffer | null;
}

export class MachineRun {
  files = new SimulatedFiles([scratch]);
  /** Between the machine and its disk. */
  door: (files: Files) => Files = (files) => files;
  readonly #image = new Map<number, Buffer>();
  readonly #points: Map<number, Buffer>[] = [];
  #committed = 0;
  #pending: LayerRun | null = null;
  #life: MachineLife | null = null;
  readonly #pinned = new Set<number>();
  readonly #retirable = new Set<number>();

  model(): MachineModel {
    return {
      points: [...this.#points],
      committed: this.#committed,
      pending: this.#pending,
      image: new Map(this.#image),
      retirable: new Set(this.#retirable),
      mapped: mappedBytes(index),
    };
  }

  async open(): Promise<void> {
    this.#life = await MachineLife.open(scratch, this.door(withRealIndex(this.files)), this.#image);
  }

  async close(): Promise<void> {
    await this.#life?.close();
    this.#life = null;
  }

  async layer(changes: readonly BlockChange[]): Promise<void> {
    const seq = await this.#opened.layer(changes);
    this.#pending = withLayer(this.#pending, seq);
  }

  /** Of all that is durable and not listed. */
  async commit(): Promise<void> {
    const layers = (await this.#opened.disk()).pending;
    this.#points.push(new Map(this.#image));
    await this.#opened.commit(layers, 1);
    this.#committed = this.#points.length;
    this.#pending = null;
  }

  /** As a target does it whose store has failed: what was not acknowledged is there, or is not, from now on for good. */
  async reopen(): Promise<void> {
    await this.close();
    await this.open();
    this.#points.length = this.#opened.store.points.points.length;
    this.#committed = this.#points.length;
    this.#pending = (await this.#opened.disk()).pending;
  }

  async prove(): Promise<void> {
    await this.#opened.prove();
  }

  async pin(point: number): Promise<void> {
    await this.#opened.pin(point, true);
    this.#pinned.add(point);
  }

  /** Retires all but the newest and the pinned ones. Answers how many segments went. */
  async fold(): Promise<number> {
    for (let point = 1; point < this.#committed; point += 1) if (!this.#pinned.has(point)) this.#retirable.add(point);
    const { outcome } = await this.#opened.fold();
    return outcome.segmentsRemoved;
  }

  get #opened(): MachineLife {
    if (!this.#life) throw new Error('the machine is open');
    return this.#life;
  }
}

const judgesRecords = 2;
/** How often points were found in each state. */
export const states = new Map<string, number>();

export async function judgeMachine(files: SimulatedFiles, model: MachineModel): Promise<void> {
  const lot = files.dice.below(4);
  leaveMapped(index, lot === 0 ? null : lot === 1 ? rubbish(files.dice) : model.mapped);
  const life = await MachineLife.open(
    scratch,
    withRealIndex(files),
    new Map(model.image),
    lot === 2 ? 'boot' : 'other',
  );
  try {
    const { damage, lost, incompleteDisks } = life.report;
    if (damage.length + lost.length + incompleteDisks.length > 0)
      throw new Error(`found damage: ${JSON.stringify({ damage, lost, incompleteDisks })}`);
    // A recovery that was crashed may have made a point of its own.
    const found = life.store.points.points.filter(({ disks }) => disks[0]?.records !== judgesRecords).length;
    if (found < model.committed || found > model.points.length)
      throw new Error(`${found} points, ${model.committed} were acknowledged`);
    for (const state of life.states()) states.set(state, (states.get(state) ?? 0) + 1);
    await expectContent(life, model, found);
    const disk = await life.disk();
    const { pending } = disk;
    const listed = life.store.points.points.flatMap(({ disks }) => disks.map(({ layers }) => layers));
    if (![pending, ...listed].some((run) => covers(run, model.pending)))
      throw new Error(`${describeLayers(model.pending)} were pending, now ${describeLayers(pending)}`);
    // And the next point commits, with what is pending.
    const seq = await life.layer([{ block: 3 }]);
    await life.commit(withLayer(pending, seq), judgesRecords);
    const { asked } = await life.prove();
    if (asked.length > 0 || life.states().includes('damaged')) throw new Error(`blocks ${asked.join()} are damaged`);
    if (model.retirable.size === 0) return;
    const { outcome } = await life.fold(keepAll);
    if (!outcome.complete || outcome.damage.length > 0) throw new Error(`a fold ended with ${JSON.stringify(outcome)}`);
    await expectContent(life, model, found);
  } finally {
    await life.close();
  }
}

/** Whether all these layers are in, and perhaps others that were not acknowledged. */
function covers(run: LayerRun | null, wanted: LayerRun | null): boolean {
  if (run === null || wanted === null) return wanted === null;
  if (run.count === wanted.count) return sameLayers(run, wanted);
  return run.first <= wanted.first && run.last >= wanted.last && run.count > wanted.count;
}

function rubbish(dice: Dice): Buffer {
  return Buffer.from(Array.from({ length: 10_000 }, () => dice.below(256)));
}

async function expectContent(life: MachineLife, model: MachineModel, found: number): Promise<void> {
  const disk = await life.disk();
  const into = Buffer.alloc(disk.geometry.blockSize);
  for (let point = 1; point <= found; point += 1) {
    if (life.store.points.isRetired(point)) {
      if (!model.retirable.has(point)) throw new Error(`point ${point} is retired`);
      continue;
    }
    const reader = life.store.readerAt(disk, point);
    for (const [block, expected] of model.points[point - 1] ?? []) {
      await reader.readBlock(block, into);
      if (!into.equals(expected)) throw new Error(`block ${block} of point ${point} is another`);
    }
  }
}

/**
 * Crashing at every sync point. A run is recorded once: before every operation a crash could fall on, the disk is copied, together with
 * what the model says at that instant. Then each copy is crashed: as a kill, and as power failures by different lots; the product is
 * started on what is left and judged. Some of those starts are recorded in turn, and crashed at their own sync points.
 */
import { Dice } from '../simulated-bytes.ts';
import type { Operation } from '../simulated-file.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

export const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
export const seed = Number(process.env['TIDEMARK_TEST_SEED'] ?? (soak ? Date.now() % 2 ** 31 : 20_261_121));

export interface CrashPoint<M> {
  /** What was about to happen: `datasync /state/vda.hrl`. */
  readonly about: string;
  readonly files: SimulatedFiles;
  readonly model: M;
}

/** After a write a crash finds what it finds before the next sync point. */
function isSyncPoint(operation: Operation): boolean {
  return operation !== 'write';
}

/** Sync points of one run, over all lives of the disk. */
export class Recording<M> {
  readonly points: CrashPoint<M>[] = [];
  readonly kinds = new Map<string, number>();
  readonly #model: () => M;

  constructor(model: () => M) {
    this.#model = model;
  }

  /** From now on. A `kill` of the disk takes its watch along. */
  watch(current: () => SimulatedFiles): void {
    current().watch = (operation, filePath) => {
      if (!isSyncPoint(operation)) return;
      this.kinds.set(operation, (this.kinds.get(operation) ?? 0) + 1);
      this.add(`${operation} ${filePath}`, current());
    };
  }

  add(about: string, files: SimulatedFiles): void {
    this.points.push({ about, files: files.copy(), model: this.#model() });
  }
}

/**
 * All sequences of up to three names: of all of them up to two, and of the `core` three (soak: of all of them). Crashed at the last one, since
 * what comes before it is the last one of another sequence.
 */
export function sequencesOf(core: readonly string[], more: readonly string[]): string[][] {
  const all = (names: readonly string[], left: number): string[][] =>
    left === 0 ? [[]] : all(names, left - 1).flatMap((start) => names.map((name) => [...start, name]));
  const every = [...core, ...more];
  return [...all(every, 1), ...all(every, 2), ...all(soak ? every : core, 3)];
}

export interface Totals {
  /** Runs recorded, their sync points, and how many states these were crashed into. */
  runs: number;
  syncPoints: number;
  states: number;
  /** Power failures among them, and crashes of a recovery. */
  powerFailures: number;
  again: number;
  kinds: Record<string, number>;
}

export function noTotals(): Totals {
  return { runs: 0, syncPoints: 0, states: 0, powerFailures: 0, again: 0, kinds: {} };
}

/** Of a kill the page cache stays. */
export type Crash = 'kill' | 'power';

/** Starts the product on a survivor and throws when what it finds is not what the model allows. */
export type Judge<M> = (files: SimulatedFiles, model: M, crash: Crash) => Promise<void>;

export interface CrashOptions<M> {
  readonly name: string;
  /** Power failures per sync point. */
  readonly lots: number;
  /** Every so many states the recovery is crashed too; 0: never. */
  readonly againEvery: number;
  readonly judge: Judge<M>;
  /** The model while `judge` is at it, where that changes more than the disk; default: it stays as it was. */
  readonly meanwhile?: () => M;
  readonly totals: Totals;
}

/** Crashes at all points of the recording. @throws what failed, with what replays it. */
export async function crashAll<M>(recording: Recording<M>, options: CrashOptions<M>): Promise<void> {
  const { totals, lots, name } = options;
  totals.runs += 1;
  totals.syncPoints += recording.points.length;
  for (const [kind, count] of recording.kinds) totals.kinds[kind] = (totals.kinds[kind] ?? 0) + count;
  for (const [index, point] of recording.points.entries()) {
    // With nothing un-synced a power failure is a kill; elsewhere a kill is the mildest of them.
    const settled = point.files.unsynced === 0;
    if (settled || index % 3 === 0)
      await judged(
        options,
        'kill',
        `${name}, ${index}, before ${point.about}: killed`,
        point.files.kill(),
        point.model,
      );
    for (let lot = 0; lot < (settled ? 0 : lots); lot += 1) {
      const dice = new Dice(seed + index * 7919 + lot * 104_729);
      const what = `${name}, ${index}, before ${point.about}: power lost (seed ${seed}, lot ${lot})`;
      totals.powerFailures += 1;
      const again = options.againEvery > 0 && totals.powerFailures % options.againEvery === 0;
      await (again ? crashAgain : judged)(options, 'power', what, point.files.afterPowerLoss(dice), point.model);
    }
  }
}

async function judged<M>(
  options: CrashOptions<M>,
  crash: Crash,
  what: string,
  files: SimulatedFiles,
  model: M,
): Promise<void> {
  options.totals.states += 1;
  // Fresh, because the judge goes on with it.
  const dice = new Dice(seed + options.totals.states);
  files.dice = dice;
  files.watch = () => undefined;
  try {
    await options.judge(files, model, crash);
  } catch (error) {
    throw new Error(`${what}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`, {
      cause: error,
    });
  }
}

/** The recovery itself is crashed at each of its sync points. */
async function crashAgain<M>(
  options: CrashOptions<M>,
  crash: Crash,
  what: string,
  files: SimulatedFiles,
  model: M,
): Promise<void> {
  const recording = new Recording(options.meanwhile ?? (() => model));
  const first = files.copy();
  await judged(
    {
      ...options,
      judge: (each) => {
        recording.watch(() => each);
        return options.judge(each, model, crash);
      },
    },
    crash,
    what,
    first,
    model,
  );
  for (const [index, point] of recording.points.entries()) {
    options.totals.again += 1;
    const survivor = point.files.afterPowerLoss(new Dice(seed + index));
    await judged(options, 'power', `${what}; again before ${point.about}`, survivor, point.model);
  }
}

/**
 * Everything a machine's files say, read once from front to back and believed only where it checks: for who has to tell what of a store is good
 * (`recovery/verify.ts`). No cache of the target takes part; the index is one of its own, filled while the segments are read.
 *
 * Invariants:
 *  1. Nothing is written into the target's directory. It may be in use: points are read first, so the segments read after them hold at least what
 *     they rely on.
 *  2. The index is filled by headers even where digests are checked: a batch in which one bit is wrong still says what its other records are, and root
 *     and tags decide which of them are right.
 *  3. Memory is bounded: what grows with the number of records lies in the index, in a directory the caller removes.
 */
import { Problem } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { epochOf } from '../wire/seq.ts';
import type { IndexReader } from './index-reader.ts';
import { machinePaths, readMachineFacts, type MachineFacts } from './machine-directory.ts';
import { IndexFiller } from './machine-open.ts';
import { readPoints, type PointsReading } from './points-log.ts';
import type { PointsView } from './points-view.ts';
import { RecordIndex } from './record-index.ts';
import { rewriteRepaired } from './repairs.ts';
import { replayAll, type ReplayedEntry, type ReplayOptions, type ReplayOutcome } from './replay.ts';

export interface SurveyOptions {
  readonly files: Files;
  /** The target's directory. */
  readonly data: string;
  readonly machine: string;
  readonly bootId: string;
  /** For the index; the caller removes it. */
  readonly scratch: string;
  readonly check: ReplayOptions['check'];
  /** Called with every entry that is read: with `digests` twice, because another replay fills the index. */
  readonly visit: (entry: ReplayedEntry) => void | Promise<void>;
}

/** The newest that the segments speak of. */
export interface NewestSeen {
  /** Of the layers, −1: there is none. */
  readonly epoch: number;
  /** The point a layer builds on, 0: there is none. */
  readonly base: number;
}

interface Surveyed {
  readonly facts: MachineFacts;
  readonly points: PointsView;
  readonly tail: PointsReading['tail'];
  readonly outcome: ReplayOutcome;
  readonly newest: NewestSeen;
  readonly index: IndexReader;
}

export class MachineSurvey {
  readonly machine: string;
  readonly facts: MachineFacts;
  readonly points: PointsView;
  /** What follows the last whole record of `points.log`. */
  readonly tail: PointsReading['tail'];
  readonly outcome: ReplayOutcome;
  readonly newest: NewestSeen;
  readonly index: IndexReader;
  /** The directory of the segments. */
  readonly segments: string;
  readonly #close: () => Promise<void>;

  private constructor({ data, machine }: SurveyOptions, found: Surveyed, close: () => Promise<void>) {
    this.machine = machine;
    this.facts = found.facts;
    this.points = found.points;
    this.tail = found.tail;
    this.outcome = found.outcome;
    this.newest = found.newest;
    this.index = found.index;
    this.segments = machinePaths(data, machine).segments;
    this.#close = close;
  }

  /** @throws Problem `damaged` when the machine's facts can not be read, `bad-argument`; what `visit` throws. */
  static async make(options: SurveyOptions): Promise<MachineSurvey> {
    const { files, data, machine, bootId, scratch, check } = options;
    const paths = machinePaths(data, machine);
    const facts = await readMachineFacts(files, data, machine);
    if (!facts) {
      throw new Problem('damaged', `${paths.directory} has no machine.json`, {
        remedy: 'restore the file from a copy of the data directory',
      });
    }
    const machineId = Buffer.from(facts.id, 'hex');
    const { view: points, tail } = await readPoints({ files, path: paths.pointsLog, machineId });
    const index = await RecordIndex.open({ files, directory: `${scratch}/${machine}`, bootId });
    const close = (): Promise<void> => index.close(false);
    try {
      const filler = new IndexFiller(index, facts, points);
      const newest = { epoch: -1, base: 0 };
      const replayOptions = {
        files,
        directory: paths.segments,
        machineId,
        extents: points.extents,
        removed: points.removed,
      };
      const checked = check === 'headers' ? null : await replayAll({ ...replayOptions, check }, options.visit);
      const filled = await replayAll({ ...replayOptions, check: 'headers' }, async (entry) => {
        await options.visit(entry);
        note(newest, entry);
        await filler.take(entry);
      });
      await rewriteRepaired(index, facts.disks, points);
      const outcome = checked ?? filled;
      const found = { facts, points, tail, outcome, newest, index: await index.reader() };
      return new MachineSurvey(options, found, close);
    } catch (error) {
      await close();
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#close();
  }
}

function note(newest: { epoch: number; base: number }, entry: ReplayedEntry): void {
  if (entry.type !== 'layer') return;
  newest.epoch = Math.max(newest.epoch, epochOf(entry.layer.seq));
  newest.base = Math.max(newest.base, entry.layer.base ?? 0);
}

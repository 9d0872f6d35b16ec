/**
 * The index a view of a machine's points reads by: the target's while it can be relied on and reaches the newest point, else one built from the
 * segments in a directory of the caller's.
 *
 * Either grows old. One that was built names the places records had then, and the target moves records; the target's own is told of that, but a
 * target that begins its index anew unlinks the file, and who has mapped that reads the old one for ever. Both say so when asked.
 */
import type { Clock } from '../kit/clock.ts';
import { systemCode } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { dataFileOf, IndexReader, type LogPosition } from './index-reader.ts';
import { machinePaths, type MachineFacts } from './machine-directory.ts';
import { IndexFiller } from './machine-open.ts';
import type { PointsView } from './points-view.ts';
import { RecordIndex } from './record-index.ts';
import { rewriteRepaired } from './repairs.ts';
import { replayAll } from './replay.ts';
import { isBefore } from './segment-format.ts';

/** How long an index that lacks the newest point may take to follow, and how often it is asked. */
const lagMs = 1_000;
const askedEveryMs = 20;

export interface ViewIndexOptions {
  readonly files: Files;
  readonly clock: Clock;
  /** The target's directory. */
  readonly data: string;
  readonly machine: string;
  readonly bootId: string;
  /** Where an index may be built; the caller removes it. */
  readonly scratch: string;
  /** Build one whatever the target has: its index is a cache, and it has just misled the caller. */
  readonly ownIndex?: boolean;
}

export interface ViewIndex {
  readonly reader: IndexReader;
  /** Built from the segments: it names the places of then. */
  readonly own: boolean;
  /** Whether the target has another one since. */
  isReplaced(): Promise<boolean>;
  /** Once. What was built is removed. */
  close(): Promise<void>;
}

/** @throws Problem `index-unreadable`, `index-failed`; what reading segments throws. */
export async function openViewIndex(
  options: ViewIndexOptions,
  facts: MachineFacts,
  points: PointsView,
): Promise<ViewIndex> {
  const present = options.ownIndex === true ? null : await targetIndex(options);
  if (present && (!points.mark || (await reaches(present.reader, points.mark, options.clock)))) return present;
  await present?.close();
  return builtIndex(options, facts, points);
}

/** Null: there is none that can be relied on. */
async function targetIndex({ files, data, machine, bootId }: ViewIndexOptions): Promise<ViewIndex | null> {
  const directory = machinePaths(data, machine).index;
  // Looked at first: if it is replaced in between, it is opened once too often and never too seldom.
  const before = await identityOf(files, directory);
  const reader = await IndexReader.openReadOnly({ files, directory, bootId });
  if (!reader) return null;
  return {
    reader,
    own: false,
    // The number is not given to another file while this one is mapped.
    isReplaced: async () => (await identityOf(files, directory)) !== before,
    close: () => reader.close(),
  };
}

async function identityOf(files: Files, directory: string): Promise<string> {
  try {
    const { device, inode } = await files.facts(dataFileOf(directory));
    return `${device}:${inode}`;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 'none';
    throw error;
  }
}

/** Whether the index has everything up to `mark`, now or in a moment. */
async function reaches(index: IndexReader, mark: LogPosition, clock: Clock): Promise<boolean> {
  const deadlineMs = clock.monotonicMs() + lagMs;
  while (isBefore(index.position, mark)) {
    if (clock.monotonicMs() >= deadlineMs) return false;
    await clock.sleep(askedEveryMs);
  }
  return true;
}

/** Numbers what this process has built, so that one can be built while another is read by. */
let builds = 0;

async function builtIndex(options: ViewIndexOptions, facts: MachineFacts, points: PointsView): Promise<ViewIndex> {
  const { files, data, machine, bootId, scratch } = options;
  builds += 1;
  const directory = `${scratch}/${machine}-${builds}`;
  const index = await RecordIndex.open({ files, directory, bootId });
  const close = async (): Promise<void> => {
    await index.close(false);
    await files.removeTree(directory);
  };
  try {
    const filler = new IndexFiller(index, facts, points);
    const machineId = Buffer.from(facts.id, 'hex');
    const { extents, removed } = points;
    const { segments } = machinePaths(data, machine);
    await replayAll({ files, directory: segments, machineId, extents, removed, check: 'headers' }, (entry) =>
      filler.take(entry),
    );
    await rewriteRepaired(index, facts.disks, points);
    return { reader: await index.reader(), own: true, isReplaced: () => Promise.resolve(false), close };
  } catch (error) {
    await close();
    throw error;
  }
}

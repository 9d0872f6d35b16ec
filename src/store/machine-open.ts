/**
 * Opening a machine's replica for writing: points, then index, then one replay that completes the index and finds the log's end, then
 * disks. Makes the machine on its first session.
 */
import type { Clock } from '../kit/clock.ts';
import { isProblem, type Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import type { Files } from '../posix/files.ts';
import { limits } from '../limits.ts';
import { decodeSealedRows, type SealedRow } from '../wire/sealed.ts';
import { replayMoved } from './index-moved.ts';
import type { IndexReader } from './index-reader.ts';
import { openDiskStore } from './disk-open.ts';
import type { DiskStore } from './disk-store.ts';
import { refuseStale } from './epochs.ts';
import { lostBlocks, type LostBlocks } from './lost-blocks.ts';
import { machinePaths, readMachineFacts, type DataDirectory, type MachineFacts } from './machine-directory.ts';
import { appliedBatch, MachineLog } from './machine-log.ts';
import { MachineStore } from './machine-store.ts';
import { maxSeqAt } from './point-layers.ts';
import { PointsLog } from './points-log.ts';
import type { PointsView } from './points-view.ts';
import { RecordIndex } from './record-index.ts';
import { rewriteRepaired } from './repairs.ts';
import type { ReplayedEntry, ReplayOutcome } from './replay.ts';
import { encodeLayerBody, isBefore } from './segment-format.ts';
import { openSegmentLog, type OpenedSegmentLog } from './segment-recovery.ts';
import type { SegmentLog } from './segment-log.ts';
import { decodeMoved } from './segment-moved.ts';
import { lostRanges, type LostRange } from './segment-survey.ts';
import { SegmentReader } from './segment-reader.ts';
import type { Vault } from './vault.ts';

/** What was found while opening, for the log. */
export interface OpeningReport {
  readonly replayedEntries: number;
  readonly damage: ReplayOutcome['damage'];
  /** Blocks that lay there, newly on record as damaged at these points; those still needed are asked of the source. */
  readonly lost: readonly { readonly point: number; readonly disk: string; readonly blocks: number }[];
  /** Layers no point lists that lost a batch, with those begun after them: they hold nothing now, and the source sends it again. */
  readonly dropped: readonly { readonly disk: string; readonly layers: number }[];
  /** Copies of torn ends that were cut off. */
  readonly torn: readonly string[];
  /** Disks whose index does not make the committed root: records are missing. */
  readonly incompleteDisks: readonly string[];
}

export interface OpenMachineOptions {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly vault: Vault;
  readonly data: DataDirectory;
  readonly machine: string;
  readonly bootId: string;
  readonly fatal: (problem: Problem) => void;
  readonly fullChanged?: (full: boolean) => void;
}

/**
 * Puts replayed entries into an index. Of layers no point lists only the batches before the first gap count; of listed ones everything
 * that is there, so that as much as possible can be read when some of it is damaged.
 */
export class IndexFiller {
  entries = 0;
  readonly #index: RecordIndex;
  readonly #facts: MachineFacts;
  readonly #listed: ReadonlyMap<number, number>;
  /** Disk number → its lowest layer that no point lists and of which a batch is missing before others. */
  readonly gaps = new Map<number, number>();
  readonly #next = new Map<string, number>();

  constructor(index: RecordIndex, facts: MachineFacts, view: PointsView) {
    this.#index = index;
    this.#facts = facts;
    const last = view.points.length;
    this.#listed = new Map(facts.disks.map(({ no }) => [no, maxSeqAt(view, no, last)]));
  }

  async take(entry: ReplayedEntry): Promise<void> {
    this.entries += 1;
    await this.#index.room();
    switch (entry.type) {
      case 'layer':
        this.#index.applyLayer(entry.diskNo, entry.layer.seq, encodeLayerBody(entry.layer), entry.end);
        return;
      case 'drop':
        await this.#index.dropLayer(entry.diskNo, entry.seq, entry.end);
        return;
      case 'batch':
        await this.#takeBatch(entry);
        return;
      case 'moved':
        await this.#takeMoved(entry);
        return;
    }
  }

  async #takeMoved(entry: ReplayedEntry & { type: 'moved' }): Promise<void> {
    const { diskNo, table, bodyLength } = entry;
    const disk = this.#facts.disks.find(({ no }) => no === diskNo);
    const moved = disk
      ? decodeMoved(Uint8Array.from(table), disk.blockSize / limits.disk.pagesPerBlock, bodyLength)
      : null;
    if (moved) await replayMoved(this.#index, diskNo, moved, entry.position, entry.end);
    else this.#index.advance(entry.end);
  }

  async #takeBatch(entry: ReplayedEntry & { type: 'batch' }): Promise<void> {
    const { diskNo, header } = entry;
    const disk = this.#facts.disks.find(({ no }) => no === diskNo);
    const key = `${diskNo}/${header.seq}`;
    const next = this.#next.get(key) ?? (await this.#index.reader()).batchCountOf(diskNo, header.seq);
    const listed = header.seq <= (this.#listed.get(diskNo) ?? 0);
    if (!disk || (!listed && header.batch !== next)) {
      if (header.batch > next) this.gaps.set(diskNo, Math.min(header.seq, this.gaps.get(diskNo) ?? header.seq));
      this.#index.advance(entry.end);
      return;
    }
    const rows = rowsOf(entry, disk.blockSize / limits.disk.pagesPerBlock);
    if (!rows) {
      this.#index.advance(entry.end);
      return;
    }
    this.#next.set(key, header.batch + 1);
    const applied = appliedBatch(
      entry.position,
      rows.map((row) => ({ ...row, leaf: row.leaf.slice(), tag: row.tag.slice() })),
    );
    this.#index.applyBatch(diskNo, header.seq, header.batch, applied, entry.end);
  }
}

/**
 * Null when the rows can not be right: replay believed the body of what a point relies on, and a bit of it has rotted. One batch is then
 * missing, which the root over all leaves tells; the points that do not need it stay readable.
 */
function rowsOf(entry: ReplayedEntry & { type: 'batch' }, pageSize: number): SealedRow[] | null {
  try {
    return decodeSealedRows(entry.rows, { blockCount: 2 ** 32 - 1, pageSize }, entry.bodyLength);
  } catch (error) {
    if (isProblem(error)) return null;
    throw error;
  }
}

/** @throws Problem `damaged`, `wrong-version`, `no-key`, `store-failed`, `points-log-sync-failed`. */
export async function openMachineStore(
  options: OpenMachineOptions,
): Promise<{ store: MachineStore; report: OpeningReport }> {
  const { files, clock, random, vault, data, machine, bootId, fatal, fullChanged } = options;
  const paths = machinePaths(data.path, machine);
  const facts = (await readMachineFacts(files, data.path, machine)) ?? (await makeMachine(options));
  const machineId = Buffer.from(facts.id, 'hex');
  const points = await PointsLog.open({ files, path: paths.pointsLog, machineId });
  const index = await RecordIndex.open({ files, directory: paths.index, bootId });
  const logOptions = {
    files,
    clock,
    directory: paths.segments,
    machineId,
    extents: points.view.extents,
    removed: points.view.removed,
    check: 'headers' as const,
    ...(fullChanged ? { fullChanged } : {}),
  };
  const missing = await lostRanges({ ...logOptions });
  // Before anything may empty the index.
  const missed = lostBlocks(await index.reader(), points.view, missing);
  const { opened, filler, copies } = await openAndIndex(logOptions, index, facts, points.view);
  const log = await machineLog(machine, { segments: opened.log, index }, facts, points.view);
  await rewriteRepaired(index, facts.disks, points.view);
  const dropped = await dropBroken({ facts, points, log, clock, random, fatal }, filler.gaps);
  const disks: DiskStore[] = [];
  for (const record of facts.disks) {
    disks.push(await openDiskStore({ files, vault, record, directory: paths.leaves, log, view: points.view }));
  }
  const reader = new SegmentReader(files, paths.segments);
  const store = new MachineStore({
    files,
    clock,
    random,
    vault,
    data,
    machine,
    facts,
    log,
    points,
    reader,
    disks,
    fatal,
  });
  const torn = [...(points.repaired ? [points.repaired.copy] : []), ...copies];
  const incompleteDisks = disks.filter((disk) => !disk.leavesComplete).map((disk) => disk.name);
  const walked = opened.outcome.damage;
  const lost = await recordLoss(store, missed);
  lost.push(...(await recordLoss(store, await walkedLoss(store, await index.reader(), walked))));
  const damage = [...missing.filter((range) => !walked.some((each) => covers(each, range))), ...walked].map(
    (range) => ({
      batch: null,
      ...range,
    }),
  );
  return { store, report: { replayedEntries: filler.entries, damage, lost, dropped, torn, incompleteDisks } };
}

/**
 * A layer that no point lists and that lost a batch (its entry rotted, and so did the index that knew it) can not stay: once a point lists it, an index made
 * anew would take what lies behind the gap, too, and the point be another one. It is dropped with all that were begun after it, newest first, for
 * their pages may be its; the source has not forgotten what they held. An epoch of its own keeps their seqs from ever being used again.
 */
async function dropBroken(
  parts: Pick<OpenMachineOptions, 'clock' | 'random' | 'fatal'> & {
    facts: MachineFacts;
    points: PointsLog;
    log: MachineLog;
  },
  gaps: ReadonlyMap<number, number>,
): Promise<OpeningReport['dropped']> {
  if (gaps.size === 0) return [];
  const { facts, points, log, clock, random, fatal } = parts;
  const before = points.view.epoch;
  const [epoch, instance] = [(before?.epoch ?? 0) + 1, random.bytes(16).toString('hex')];
  // Where leases are in use this is no way around them.
  const body = { epoch, instance, atMs: clock.wallMs(), ...(before?.lease && { lease: before.lease }) };
  await points.append({ type: 'epoch', body }).catch((error: unknown) => {
    if (isProblem(error) && error.code === 'points-log-sync-failed') fatal(error);
    throw error;
  });
  const dropped: OpeningReport['dropped'][number][] = [];
  for (const { no, name } of facts.disks) {
    const from = gaps.get(no);
    if (from === undefined) continue;
    const seqs = new Set([from, ...(await log.index.reader()).layersOf(no, from)]);
    for (const seq of [...seqs].reverse()) await log.appendDrop(no, seq);
    dropped.push({ disk: name, layers: seqs.size });
  }
  return dropped;
}

function covers(outer: LostRange, inner: LostRange): boolean {
  const { segment, offset, length } = outer;
  return segment === inner.segment && offset <= inner.offset && offset + length >= inner.offset + inner.length;
}

/** What lay in damaged places. Where an entry's rows still stand, one of many records may have rotted: those that can be read are no loss. */
async function walkedLoss(
  store: MachineStore,
  index: IndexReader,
  walked: ReplayOutcome['damage'],
): Promise<LostBlocks[]> {
  const [standing, gone]: [LostRange[], LostRange[]] = [[], []];
  for (const range of walked) {
    const rows = await store.storedRecords().rowsAt(range, store.disks);
    (rows.size > 0 ? standing : gone).push(range);
  }
  const lost = lostBlocks(index, store.points, gone);
  for (const each of lostBlocks(index, store.points, standing)) {
    const disk = store.disks.find(({ no }) => no === each.diskNo);
    // What can not be read now counts as lost, as it does where nothing stands.
    const blocks = disk ? await store.damagedAmong(disk, each.point, each.blocks).catch(() => each.blocks) : [];
    if (blocks.length > 0) lost.push({ ...each, blocks });
  }
  return lost;
}

/** Without space for the records the blocks are asked for all the same, and found again at the next opening. */
async function recordLoss(store: MachineStore, lost: readonly LostBlocks[]): Promise<OpeningReport['lost'][number][]> {
  const told: OpeningReport['lost'][number][] = [];
  for (const { point, diskNo, blocks } of lost) {
    const disk = store.disks.find(({ no }) => no === diskNo);
    if (!disk) continue;
    try {
      await store.markDamaged(point, disk, blocks);
    } catch (error) {
      if (!isProblem(error) || error.code !== 'full') throw error;
    }
    told.push({ point, disk: disk.name, blocks: blocks.length });
  }
  return told;
}

/**
 * Opens the log and completes the index from it. An index that is ahead of the log (bytes above the last point rotted and were cut off)
 * speaks of what is not there any more: it is emptied and filled again.
 */
async function openAndIndex(
  options: Omit<Parameters<typeof openSegmentLog>[0], 'from'>,
  index: RecordIndex,
  facts: MachineFacts,
  view: PointsView,
): Promise<{ opened: OpenedSegmentLog; filler: IndexFiller; copies: readonly string[] }> {
  const start = index.position;
  const filler = new IndexFiller(index, facts, view);
  const from = start.segment === 0 ? undefined : start;
  const opened = await openSegmentLog({ ...options, from }, (entry) => filler.take(entry));
  const end = opened.outcome.end ?? { segment: 0, offset: 0 };
  const copies = opened.repaired ? [opened.repaired.copy] : [];
  if (!isBefore(end, start)) return { opened, filler, copies };
  await opened.log.close();
  await index.clear();
  const again = await openAndIndex(options, index, facts, view);
  return { ...again, copies: [...copies, ...again.copies] };
}

async function makeMachine(options: OpenMachineOptions): Promise<MachineFacts> {
  const facts: MachineFacts = { id: options.random.bytes(16).toString('hex'), disks: [] };
  await options.data.writeMachine(options.machine, facts);
  return facts;
}

async function machineLog(
  machine: string,
  parts: { segments: SegmentLog; index: RecordIndex },
  facts: MachineFacts,
  view: PointsView,
): Promise<MachineLog> {
  return new MachineLog({
    ...parts,
    highestSeq: await highestSeq(parts.index, facts, view),
    refuseStale: (epoch) => {
      refuseStale(machine, view.epoch, epoch);
    },
  });
}

/** What points list counts though fold took the layers away. */
async function highestSeq(index: RecordIndex, facts: MachineFacts, view: PointsView): Promise<number> {
  const reader = await index.reader();
  let highest = 0;
  for (const { no } of facts.disks) {
    highest = Math.max(highest, view.listedSeq(no));
    for (const seq of reader.layersOf(no, highest)) highest = Math.max(highest, seq);
  }
  return highest;
}

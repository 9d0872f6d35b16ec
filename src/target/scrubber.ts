/**
 * The check of everything stored, over and over: every byte of every segment points rely on against its digest and chain, every version of a block that a
 * kept point reads rebuilt and matched with its leaf. One per machine; a pass begins once a day and takes as long as the share of the processor lets it
 * (`scrub-pace.ts`). Its place is noted, so that a restart goes on there.
 *
 * A pass goes through the segments in the order of the log. A version is checked where its own record lies, so each once a pass, however many points read
 * it. A place that does not check is quarantined: noted, told once, and each version with anything in it is looked at.
 *
 * Invariants:
 *  1. Exactly the points that read a damaged version are marked: the first of them here, which takes back the proofs of those after it; the
 *     prover looks at each of these again (`prover.ts`).
 *  2. A record whose row is lost counts as damaged while the index still knows it: the index is a cache. So does who has pages of it.
 *  3. What the system could not read just now is not called damaged: it is tried again, and only what the medium keeps refusing is.
 *  4. Progress only moves over what was checked and marked. It is a cache itself: without it a pass begins anew.
 */
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, type Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { DiskStore } from '../store/disk-store.ts';
import type { MachineStore } from '../store/machine-store.ts';
import { startOfScrub, type ScrubProgress } from '../store/scrub-progress.ts';
import type { IndexEntry } from '../store/index-codec.ts';
import { isMediumError } from '../store/medium-error.ts';
import { entryHeaderBytes } from '../store/segment-format.ts';
import type { SurveyedSegment } from '../store/segment-survey.ts';
import type { Damage, SegmentEnd, WalkedEntry } from '../store/segment-walk.ts';
import {
  rowKey,
  rowLost,
  rowsOf,
  saysTheSame,
  type StoredRecord,
  type StoredRecords,
  type StoredRow,
} from '../store/stored-records.ts';
import { keptPointsOf, type KeptPoint } from '../store/version-points.ts';
import type { TargetCounters } from './counters.ts';
import type { ScrubPace } from './scrub-pace.ts';
import { checkRoots } from './scrub-roots.ts';

export interface ScrubberOptions {
  readonly store: MachineStore;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly counters: TargetCounters;
  readonly pace: ScrubPace;
  /** Blocks nothing has replaced since: ask the source for them. */
  readonly damaged: (disk: DiskStore, blocks: readonly number[]) => void;
  /** Proofs were taken back. */
  readonly proofsWanted: () => void;
}

interface Found extends StoredRecord {
  readonly problem: Problem;
}

/** A place that does not check, or that can not be read. */
interface BadPlace extends Damage {
  readonly unreadable: boolean;
}

export class Scrubber {
  readonly #options: ScrubberOptions;
  readonly #records: StoredRecords;
  readonly #stop = new AbortController();
  #progress: ScrubProgress = startOfScrub;
  #running: Promise<void> | null = null;
  #savedMs = -Infinity;
  /** By disk number; made anew when there are other points. */
  readonly #kept = new Map<number, readonly KeptPoint[]>();
  #keptOf = '';
  /** Of the segment under way. */
  #unreadable: Found[] = [];
  #layersUnseen: { readonly disk: DiskStore; readonly seq: number; readonly offset: number }[] = [];
  /** The segment before lost an entry's header. */
  #headersLost = false;

  constructor(options: ScrubberOptions) {
    this.#options = options;
    this.#records = options.store.storedRecords();
  }

  /** Begins, after a moment. Once. */
  start(): void {
    this.#running = this.#run().catch((error: unknown) => {
      if (!this.#stop.signal.aborted) throw error;
    });
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  /** Share of the stored bytes that were checked in this pass or the one before; undefined: nothing is stored. */
  get coverage(): number | undefined {
    const { position, last } = this.#progress;
    let [stored, checked] = [0, 0];
    for (const [segment, length] of this.#records.lengths()) {
      stored += length;
      const to = (end: { segment: number; offset: number } | undefined): number =>
        !end || segment > end.segment ? 0 : segment < end.segment ? length : Math.min(length, end.offset);
      checked += Math.max(to(position), to(last?.end));
    }
    return stored === 0 ? undefined : checked / stored;
  }

  /** Everything that was stored then was checked since; undefined: no pass has come to its end. */
  get checkedSinceMs(): number | undefined {
    return this.#progress.last?.startedMs;
  }

  async #run(): Promise<void> {
    const { clock, logger, store } = this.#options;
    const { scrubEveryMs, scrubFirstMs, scrubRetryMs } = limits.target;
    const { signal } = this.#stop;
    // Without it the pass begins anew.
    await this.load().catch(() => undefined);
    await clock.sleep(scrubFirstMs, signal);
    for (;;) {
      const { startedMs, last } = this.#progress;
      const sinceMs = clock.wallMs() - (last?.startedMs ?? 0);
      // A clock that was set back must not put the next pass off for longer than this.
      if (startedMs === null && sinceMs < scrubEveryMs) {
        await clock.sleep(Math.min(scrubEveryMs, scrubEveryMs - sinceMs), signal);
      }
      try {
        await this.pass();
      } catch (error) {
        signal.throwIfAborted();
        logger.error(
          { machine: store.machine, error: messageOf(error), retryInMs: scrubRetryMs },
          'the scrub failed to run',
        );
        await clock.sleep(scrubRetryMs, signal);
      }
    }
  }

  /** What an earlier run came to. */
  async load(): Promise<void> {
    this.#progress = await this.#records.readProgress();
  }

  /** One pass, or the rest of the one under way. @throws Problem `read-failed`, `full`, …: call it again, it goes on. */
  async pass(): Promise<void> {
    const { clock, pace, logger, store } = this.#options;
    const startedMs = this.#progress.startedMs ?? clock.wallMs();
    if (this.#progress.startedMs === null)
      this.#progress = { ...this.#progress, startedMs, position: startOfScrub.position, layers: {} };
    this.#headersLost = false;
    const segments = await pace.run(() => this.#records.segments(this.#progress.position.segment), this.#stop.signal);
    for (const segment of segments) await this.#segment(segment);
    await checkRoots(this.#options, this.#stop.signal);
    this.#progress = {
      ...this.#progress,
      startedMs: null,
      position: startOfScrub.position,
      last: { startedMs, end: this.#progress.position },
      damaged: this.#progress.damaged.filter(({ segment }) => !this.#records.isRemoved(segment)),
    };
    await this.#save();
    logger.info({ machine: store.machine, segments: segments.length }, 'everything stored was checked');
  }

  async #segment(segment: SurveyedSegment): Promise<void> {
    const { position } = this.#progress;
    if (position.segment === segment.segment && position.offset >= segment.knownEnd) return;
    this.#unreadable = [];
    this.#layersUnseen = [];
    // LAYERs of a segment that is gone went along with what lived (MOVED).
    if (this.#records.isRemoved(segment.segment - 1)) this.#headersLost = false;
    const damage = await this.#walk(segment);
    // Fold took it away meanwhile: what it held and is needed is checked where it is now.
    if (!this.#records.isRemoved(segment.segment)) {
      const headersLost: number[] = [];
      for (const place of damage) {
        if (await this.#isHeaderLost(place)) headersLost.push(place.offset);
        await this.#look(place);
      }
      await this.#lookAtLayers(this.#headersLost ? 0 : Math.min(...headersLost));
      this.#headersLost = headersLost.length > 0;
      await this.#retryUnreadable();
    }
    this.#progress = { ...this.#progress, position: { segment: segment.segment, offset: segment.knownEnd } };
    await this.#save();
  }

  /** Goes through the segment's entries; answers the places that do not check. */
  async #walk(segment: SurveyedSegment): Promise<BadPlace[]> {
    const { pace, counters, clock } = this.#options;
    const { position } = this.#progress;
    const from = position.segment === segment.segment ? position.offset : 0;
    const ends: SegmentEnd[] = [];
    const walked = this.#records.walk(segment, (end) => ends.push(end));
    let reached = 0;
    try {
      for (;;) {
        const step = await pace.run(() => walked.next(), this.#stop.signal);
        if (step.done === true) break;
        const { position: at, bytes } = step.value;
        await this.#entry(step.value, at.offset >= from);
        reached = at.offset + bytes;
        if (at.offset < from) continue;
        counters.scrubbedBytes += bytes;
        // Invariant 4: at its end the damaged places are still to be looked at.
        if (reached >= segment.knownEnd) continue;
        this.#progress = { ...this.#progress, position: { segment: segment.segment, offset: reached } };
        if (clock.monotonicMs() - this.#savedMs >= limits.target.scrubSaveMs) await this.#save();
      }
    } catch (error) {
      if (this.#records.isRemoved(segment.segment)) return [];
      if (!isMediumError(error)) throw error;
      const length = segment.knownEnd - reached;
      return [{ segment: segment.segment, offset: reached, length, batch: null, unreadable: true }];
    } finally {
      await walked.return();
    }
    return ends.flatMap(({ damage }) => damage.map((place) => ({ ...place, unreadable: false })));
  }

  /** `fresh`: not checked in this pass. */
  async #entry({ position, diskNo, content }: WalkedEntry, fresh: boolean): Promise<void> {
    if (content.type === 'layer')
      this.#progress = {
        ...this.#progress,
        layers: { ...this.#progress.layers, [diskNo]: content.layer.seq },
      };
    const disk = this.#options.store.disks.find(({ no }) => no === diskNo);
    if (!disk || !fresh) return;
    if (content.type === 'batch' && this.#progress.layers[diskNo] !== content.header.seq)
      this.#layersUnseen.push({ disk, seq: content.header.seq, offset: position.offset });
    const records: StoredRecord[] = [];
    for (const row of rowsOf(content, disk)) {
      const entry = this.#records.entry(disk.no, row.block, row.seq);
      // One that was moved is checked where it is.
      if (entry?.segment !== position.segment || entry.payloadOffset !== payloadAt(position.offset, row)) continue;
      if (!saysTheSame(entry, row)) await this.#mendIndex(disk, entry, row);
      const healed = this.#records.healedBy(disk.no, row.block, row.seq);
      const now = this.#records.entry(disk.no, row.block, row.seq);
      if (now && this.#pointsReading({ disk, entry }).length + healed.length > 0) records.push({ disk, entry: now });
    }
    await this.#found(await this.#check(records));
  }

  /** Which of the records are damaged. */
  async #check(records: readonly StoredRecord[]): Promise<Found[]> {
    const { pace } = this.#options;
    const bad: Found[] = [];
    for (let at = 0; at < records.length;) {
      at = await pace.run(async () => {
        let next = at;
        for (let bytes = 0; next < records.length && bytes < limits.target.proofSliceBytes; next += 1) {
          const record = records[next];
          if (record) await this.#checkOne(record, bad);
          bytes += record?.disk.geometry.blockSize ?? 0;
        }
        return next;
      }, this.#stop.signal);
    }
    return bad;
  }

  async #checkOne(record: StoredRecord, bad: Found[]): Promise<void> {
    try {
      const problem = await this.#records.check(record.disk, record.entry);
      if (!problem) return;
      const { disk, entry } = record;
      for (const healed of this.#records.healedBy(disk.no, entry.block, entry.seq))
        bad.push({ disk, entry: healed, problem });
      bad.push({ ...record, problem });
    } catch (error) {
      // Invariant 3.
      if (!isProblem(error) || !isMediumError(error)) throw error;
      this.#unreadable.push({ ...record, problem: error });
    }
  }

  async #retryUnreadable(): Promise<void> {
    const { clock } = this.#options;
    for (let tries = 1; this.#unreadable.length > 0 && tries < limits.target.unreadableTriesMax; tries += 1) {
      await clock.sleep(limits.target.scrubRetryMs, this.#stop.signal);
      await this.#found(await this.#check(this.#unreadable.splice(0)));
    }
    await this.#found(this.#unreadable.splice(0));
  }

  /** Looks at each version with anything in the place; once it is quarantined at those whose rows stand there, of which more may have rotted since. */
  async #look(place: BadPlace): Promise<void> {
    const { logger, store, pace, clock } = this.#options;
    const { segment, offset, length, unreadable } = place;
    const isKnown = this.#progress.damaged.some(
      (known) => known.segment === segment && known.offset === offset && known.length === length,
    );
    if (!isKnown) logger.error({ machine: store.machine, segment, offset, length }, 'stored bytes are damaged');
    const rows = unreadable ? null : await this.#records.rowsAt({ segment, offset }, store.disks);
    const steps = isKnown
      ? this.#records.recordsAt(store.disks, { segment, offset })
      : this.#records.recordsIn(store.disks, place);
    for (;;) {
      const step = await pace.run(() => steps.next(), this.#stop.signal);
      if (step.done === true) break;
      const [whole, lost]: [StoredRecord[], StoredRecord[]] = [[], []];
      for (const record of step.value) {
        const row = rows?.get(rowKey(record.disk, record.entry));
        (rows === null || (row && saysTheSame(record.entry, row)) ? whole : lost).push(record);
      }
      await this.#found(await this.#check(whole.filter((record) => this.#pointsReading(record).length > 0)));
      await this.#foundLost(lost);
    }
    if (isKnown) return;
    const { damaged } = this.#progress;
    const noted = [...damaged, { segment, offset, length, foundMs: clock.wallMs() }];
    this.#progress = { ...this.#progress, damaged: noted.slice(-limits.target.scrubRangesMax) };
  }

  async #isHeaderLost({ segment, offset, batch, unreadable }: BadPlace): Promise<boolean> {
    return (
      batch === null &&
      !unreadable &&
      (await this.#records.rowsAt({ segment, offset }, this.#options.store.disks)).size === 0
    );
  }

  /** Layers whose batches were there and whose LAYER was not, behind where a header is lost: nobody can tell their salt from the segments. */
  async #lookAtLayers(lostFrom: number): Promise<void> {
    const behind = this.#layersUnseen.filter(({ offset }) => offset > lostFrom);
    for (const { disk, seq } of new Map(behind.map((each) => [`${each.disk.no}/${each.seq}`, each])).values())
      await this.#foundLost(await this.#records.recordsOfLayer(disk, seq));
  }

  /** Invariant 2. */
  async #foundLost(lost: readonly StoredRecord[]): Promise<void> {
    const found: Found[] = [];
    for (const { disk, entry } of lost) {
      for (const leaning of this.#records.leaningOn(disk.no, entry))
        found.push({ disk, entry: leaning, problem: rowLost(disk, entry) });
    }
    await this.#found(found);
  }

  /** Marks the points that read these versions (invariant 1), unless they are on record. */
  async #found(found: readonly Found[]): Promise<void> {
    const { store, logger, counters, damaged, proofsWanted } = this.#options;
    const blocks = new Map<DiskStore, Map<number, Set<number>>>();
    for (const { disk, entry, problem } of found) {
      const points = this.#pointsReading({ disk, entry });
      const [first, last] = [points[0]?.point, points.at(-1)?.point];
      if (first === undefined || store.points.damaged.get(first)?.get(disk.no)?.has(entry.block) === true) continue;
      const byPoint = blocks.get(disk) ?? new Map<number, Set<number>>();
      blocks.set(disk, byPoint);
      const named = byPoint.get(first) ?? new Set();
      byPoint.set(first, named);
      if (named.has(entry.block)) continue;
      named.add(entry.block);
      counters.scrubDamage += 1;
      counters.integrityErrors += 1;
      const where = { machine: store.machine, disk: disk.name, block: entry.block, points: [first, last] };
      logger.error(where, `scrub: ${problem.message}`);
    }
    for (const [disk, byPoint] of blocks) {
      for (const [point, named] of byPoint) damaged(disk, await store.markDamaged(point, disk, [...named]));
    }
    if (blocks.size > 0) proofsWanted();
  }

  /** The entry's digest fits, so its row is right. The index is a cache: no point suffers from what it says. */
  async #mendIndex(disk: DiskStore, entry: IndexEntry, row: StoredRow): Promise<void> {
    const { logger, counters, store } = this.#options;
    counters.integrityErrors += 1;
    const where = { machine: store.machine, disk: disk.name, block: row.block, seq: row.seq };
    logger.error(where, 'scrub: the index said something else than the segment; mended');
    await store.mendRecord(disk, { ...entry, ...row, payloadOffset: entry.payloadOffset });
  }

  #pointsReading({ disk, entry }: StoredRecord): readonly KeptPoint[] {
    const { points } = this.#options.store;
    const now = `${points.points.length}/${points.kept.length}`;
    if (now !== this.#keptOf) this.#kept.clear();
    this.#keptOf = now;
    const kept = this.#kept.get(disk.no) ?? keptPointsOf(points, disk.no);
    this.#kept.set(disk.no, kept);
    return this.#records.pointsReading(kept, disk.no, entry.block, entry.seq);
  }

  async #save(): Promise<void> {
    this.#savedMs = this.#options.clock.monotonicMs();
    await this.#records.writeProgress(this.#progress);
  }
}

function payloadAt(entryOffset: number, row: { readonly payloadOffset: number }): number {
  return entryOffset + entryHeaderBytes + row.payloadOffset;
}

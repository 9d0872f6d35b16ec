/**
 * The change log of a disk, at work: keeps the file (FORMAT.md) a superset of what changed, whatever happens (contract C3).
 *
 * A write pins its regions (`pin`), which resolves once they are durably hot, and unpins them when it ended. Activations that come
 * together share one write and one sync. In the background, when the hot set is 7/8 full, least recently used regions become cold in
 * batches. Masks are asked of the owner (`unionOf`) at the moment a chunk is written.
 *
 * Invariants:
 *  1. A region is named by a durable activity slot before a pin on it resolves.
 *  2. A region becomes cold only without pins, after the image was synced behind its last write and its chunk was written and synced;
 *     a pin in between keeps it hot.
 *  3. Chunk writes are serial (`#chunkWork`), activity writes are serial (in the writer); the two run side by side.
 *  4. Pins are granted in order of arrival once the set is full of pinned regions; no writer starves.
 *  5. When the log can not be written it is disowned: removed durably, then everybody goes on in memory. Only if that fails too are
 *     pins refused, with `EIO`. Either way a new log is tried for, with pauses that grow (`log-revival.ts`).
 *  6. No work on one file outlives it: a new one is begun when everything queued for the old one has ended, and a file is removed only when
 *     none is being put in its place.
 *
 * Rejected: writing each mask before each write (a sync per write); making `forget` wait for nothing and leave stale chunks until a
 * clean stop (a crash after the first point would read the whole disk again).
 */
import type { Backoff } from '../kit/backoff.ts';
import type { Clock, Timer } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { Serial } from '../kit/serial.ts';
import type { FileFacts, Files } from '../posix/files.ts';
import { HotRegions } from './hot-regions.ts';
import { noRegions, type RegionRange } from './log-activity.ts';
import { removeLog, reviveLog } from './log-revival.ts';
import { imageRecordOf } from './log-header.ts';
import { installLog, type LogWriter } from './log-writer.ts';
import { LoosePins } from './loose-pins.ts';
import { StaleChunks } from './stale-chunks.ts';

interface PinRequest {
  readonly first: number;
  readonly last: number;
  readonly resolve: () => void;
  readonly reject: (reason: Error) => void;
}

/** `logging` → `failing` → `disowned` or `refusing` → `disowned` → `logging`; any of them → `closed`. */
type Mode = 'logging' | 'failing' | 'disowned' | 'refusing' | 'closed';

export interface ChangeLogOptions {
  readonly files: Files;
  readonly path: string;
  readonly writer: LogWriter;
  readonly hotRegionsMax: number;
  /** Makes all ended writes of the image durable, and reports it by `imageSynced`. */
  readonly syncImage: () => Promise<void>;
  readonly clock: Clock;
  /** Pauses between tries for a new log. */
  readonly backoff: Backoff;
  /** Makes a new log that says what the sets say now, under its temporary name. */
  readonly build: () => Promise<LogWriter>;
}

export class ChangeLog {
  readonly #options: ChangeLogOptions;
  #writer: LogWriter;
  #hot: HotRegions;
  readonly #stale: StaleChunks;
  readonly #queue: PinRequest[] = [];
  readonly #chunkWork = new Serial();
  #mode: Mode = 'logging';
  #failure: string | null = null;
  #pumping: Promise<void> | null = null;
  #persisting: Promise<void> | null = null;
  #disowning: Promise<void> | null = null;
  /** While disowned. */
  #loose: LoosePins | null = null;
  #retry: Timer | null = null;
  #reviving: Promise<void> | null = null;
  #installing: Promise<void> | null = null;
  #closing = false;
  #coolingJob: Promise<void> | null = null;
  #starved = false;
  #wakeStarved: (() => void) | null = null;
  #rewriting: RegionRange = noRegions;
  #durableTick = 0;

  constructor(options: ChangeLogOptions) {
    this.#options = options;
    this.#writer = options.writer;
    this.#hot = this.#noneHot();
    this.#stale = new StaleChunks(options.writer.layout.regionCount);
  }

  /** Why there is no log now, or null. A crash then costs a comparison by checksum. */
  get failure(): string | null {
    return this.#failure;
  }

  /** Pins regions `first` to `last` (at most `hotRegionsMax`). `undefined`: they were hot and are pinned now. Rejects with Problem `EIO`. */
  pin(first: number, last: number): Promise<void> | undefined {
    if (this.#loose) {
      this.#loose.pin(first, last);
      return undefined;
    }
    if (this.#mode === 'logging' && !this.#starved && this.#hot.tryPin(first, last)) return undefined;
    invariant(last - first < this.#hot.capacity, 'a request fits into the hot set');
    if (this.#mode === 'refusing' || this.#mode === 'closed') return Promise.reject(this.#refusal());
    return new Promise((resolve, reject) => {
      this.#queue.push({ first, last, resolve, reject });
      this.#pumping ??= this.#pump();
    });
  }

  /** `pin` and `unpin` in one, for a write that ends in this turn: whether its regions are hot now. False: nothing happened. */
  tryUse(first: number, last: number): boolean {
    if (this.#loose) return this.#loose.use(first, last);
    return this.#mode === 'logging' && !this.#starved && this.#hot.tryUse(first, last);
  }

  /** `undefined`: no pin waits. Else resolves when none did for a moment. */
  pinsGranted(): Promise<void> | undefined {
    return this.#pumping ?? undefined;
  }

  /** Ends one pin. */
  unpin(first: number, last: number): void {
    if (this.#mode === 'closed') return;
    if (this.#loose) this.#loose.unpin(first, last);
    else this.#hot.unpin(first, last);
    this.#wakeStarved?.();
  }

  /** A sync of the image begins; hand the number to `imageSynced` when it succeeded. */
  imageSyncBegins(): number {
    return this.#hot.tick;
  }

  imageSynced(tick: number): void {
    this.#durableTick = Math.max(this.#durableTick, tick);
  }

  /** The region's masks changed other than by a pinned write; `persist` will write them. */
  touch(region: number): void {
    this.#stale.add(region);
    this.#loose?.note(region); // A new log may have its chunk already, and counts as soon as it is in place.
  }

  /** Resolves when what `touch` named is durable, or no log says otherwise. Never rejects: a failure disowns the log. */
  persist(): Promise<void> {
    this.#persisting ??= this.#chunkWork.run(async () => {
      this.#persisting = null; // One that has not begun does it for all who ask: marks come by the million.
      await this.#rewriteStale().catch((error: unknown) => this.#disown(error));
      await this.#disowning;
    });
    return this.#persisting;
  }

  /**
   * Ends the log; nobody may hold a pin. `image`: facts of the image after its last sync, null when that sync failed (then the file stays
   * `open`). Returns whether the file is clean now.
   */
  async close(image: FileFacts | null): Promise<boolean> {
    this.#closing = true;
    this.#retry?.cancel();
    await this.#reviving;
    await this.#idle();
    await this.#disowning;
    if (this.#mode !== 'logging') {
      this.#mode = 'closed';
      return false;
    }
    try {
      if (!image) throw new Problem('EIO', 'the disk image could not be synced');
      await this.#rewriteStale();
      await this.#writer.writeChunks(this.#hot.list().sort());
      await this.#writer.sync();
      await this.#writer.writeActivity(() => new Uint32Array(0));
      await this.#writer.writeHeader('clean', imageRecordOf(image));
      return true;
    } catch (error) {
      // The header still says open and the hot set still stands: the next start reads that.
      this.#failure = messageOf(error);
      return false;
    } finally {
      this.#mode = 'closed';
      await this.#writer.close();
    }
  }

  async #pump(): Promise<void> {
    // One turn of the microtask queue, so that requests of the same instant share the first sync.
    await Promise.resolve();
    while (this.#queue.length > 0 && this.#mode === 'logging') {
      const served: PinRequest[] = [];
      let fresh = false;
      for (let head = this.#queue[0]; head; head = this.#queue[0]) {
        const claim = this.#hot.claim(head.first, head.last);
        if (claim === 'no-room') break;
        fresh ||= claim === 'activating';
        served.push(head);
        this.#queue.shift();
      }
      try {
        if (served.length === 0) await this.#makeRoom();
        else if (fresh) await this.#writeActivity();
      } catch (error) {
        for (const { first, last } of served) this.unpin(first, last);
        this.#queue.unshift(...served.splice(0));
        await this.#disown(error);
      }
      if (served.length > 0) this.#hot.activated();
      for (const request of served) request.resolve();
      this.#coolIfFull();
    }
    this.#pumping = null;
    this.#settleQueue();
  }

  #writeActivity(): Promise<void> {
    return this.#writer.writeActivity(
      () => this.#hot.list(),
      () => this.#rewriting,
    );
  }

  #coolIfFull(): void {
    if (this.#coolingJob || this.#mode !== 'logging' || this.#hot.used * 8 < this.#hot.capacity * 7) return;
    this.#coolingJob = this.#cool()
      .then(() => undefined)
      .catch((error: unknown) => this.#disown(error))
      .finally(() => {
        this.#coolingJob = null;
      });
  }

  /** The set is full: cools, or waits until a pin ends. Later pins queue behind the head meanwhile (invariant 4). */
  async #makeRoom(): Promise<void> {
    this.#starved = true;
    try {
      const cooled = await this.#cool();
      if (cooled === 'image-failed') {
        // The image refuses every further write by itself (posix/files.ts rule 2): its writers get that answer now.
        for (const request of this.#queue.splice(0))
          request.reject(new Problem('EIO', 'the disk image could not be synced'));
        return;
      }
      const head = this.#queue[0];
      if (!head || this.#mode !== 'logging') return;
      // Another batch may have made room while this one waited its turn: then no unpin need ever come.
      if (cooled > 0 || this.#hot.coolable() || this.#hot.roomFor(head.first, head.last)) return;
      await new Promise<void>((resolve) => {
        this.#wakeStarved = resolve;
      });
    } finally {
      this.#wakeStarved = null;
      this.#starved = false;
    }
  }

  /** Makes one batch cold (invariant 2). Rejects only when the log fails. */
  #cool(): Promise<number | 'image-failed'> {
    return this.#chunkWork.run(async () => {
      const regions = this.#hot.beginCooling(Math.max(1, Math.floor(this.#hot.capacity / 8)));
      if (regions.length === 0) return 0;
      if (this.#hot.newestUse(regions) > this.#durableTick) {
        try {
          await this.#options.syncImage();
        } catch {
          this.#hot.endCooling(regions, true);
          return 'image-failed';
        }
      }
      await this.#writer.writeChunks(regions, this.#stale.taken);
      await this.#writer.sync();
      return this.#hot.endCooling(regions);
    });
  }

  /** Rewrites stale chunks of regions that are not durably hot, a bounded range at a time (FORMAT.md, order 4). Runs inside `#chunkWork` or `close`. */
  async #rewriteStale(): Promise<void> {
    for (let from = 0; this.#mode === 'logging';) {
      const regions = this.#stale.next(from, (region) => this.#hot.isNamed(region));
      const first = regions[0];
      const last = regions.at(-1);
      if (first === undefined || last === undefined) return;
      this.#rewriting = { first, count: last - first + 1 };
      await this.#writeActivity();
      await this.#writer.writeChunks(regions, this.#stale.taken);
      await this.#writer.sync();
      // The range stays on disk until the next activity write; it only excuses chunks, so that costs nothing.
      this.#rewriting = noRegions;
      from = last + 1;
    }
  }

  /** Invariant 5. Idempotent. */
  #disown(error: unknown): Promise<void> {
    this.#disowning ??= this.#giveUpFile(error);
    return this.#disowning;
  }

  async #giveUpFile(error: unknown): Promise<void> {
    this.#mode = 'failing';
    this.#failure = messageOf(error);
    await this.#installing?.catch(() => undefined); // 6
    this.#removed(await removeLog(this.#options.files, this.#options.path));
    await this.#writer.close().catch(() => undefined);
    this.#wakeStarved?.();
    if (!this.#pumping) this.#settleQueue();
    this.#reviveLater();
  }

  #removed(really: boolean): void {
    this.#mode = really ? 'disowned' : 'refusing';
    if (really) this.#loose = new LoosePins(this.#writer.layout.regionCount, this.#hot.pinned());
  }

  #reviveLater(): void {
    if (this.#closing) return;
    this.#retry = this.#options.clock.after(this.#options.backoff.nextMs(), () => {
      this.#reviving = this.#revive().finally(() => {
        this.#reviving = null;
      });
    });
  }

  /** Tries for a new log. Never rejects. */
  async #revive(): Promise<void> {
    const { files, path, syncImage, build, hotRegionsMax } = this.#options;
    await this.#idle(); // 6
    if (this.#mode === 'refusing') this.#removed(await removeLog(files, path));
    const pins = this.#loose;
    try {
      if (!pins) throw new Problem('EIO', 'the old log can still not be removed');
      this.#stale.clear();
      const regionsMax = Math.max(1, Math.floor(hotRegionsMax / 2));
      await reviveLog({ pins, syncImage, build, regionsMax, join: (writer, hot) => this.#join(writer, hot, pins) });
    } catch {
      this.#reviveLater();
      return;
    }
    try {
      this.#installing = this.#install();
      await this.#installing;
      this.#inPlace();
    } catch (error) {
      await this.#disown(error);
    } finally {
      this.#installing = null;
    }
  }

  /** From here on pins wait for the new log. It does not count before it is in place, so its first hot regions need not be durable yet. */
  #join(writer: LogWriter, hot: readonly number[], pins: LoosePins): void {
    const { tick } = this.#hot;
    this.#hot = this.#noneHot();
    this.#hot.adopt(hot, pins.pins, tick);
    this.#writer = writer;
    this.#loose = null;
    this.#disowning = null;
    this.#mode = 'logging';
  }

  async #install(): Promise<void> {
    await this.#writeActivity();
    if (this.#mode !== 'logging') throw new Problem('EIO', 'the new log failed before it was in place');
    await installLog(this.#options.files, this.#options.path);
  }

  #inPlace(): void {
    if (this.#mode !== 'logging') return;
    this.#options.backoff.reset();
    this.#failure = null;
    void this.persist();
  }

  #noneHot(): HotRegions {
    return new HotRegions(this.#options.writer.layout.regionCount, this.#options.hotRegionsMax);
  }

  /** Nobody works on the file any more. */
  async #idle(): Promise<void> {
    await this.#pumping;
    await this.#chunkWork.idle();
    await this.#coolingJob;
  }

  #settleQueue(): void {
    if (this.#mode === 'logging' || this.#mode === 'failing') return;
    for (const request of this.#queue.splice(0)) {
      if (this.#loose) this.#loose.pin(request.first, request.last);
      if (this.#loose) request.resolve();
      else request.reject(this.#refusal());
    }
  }

  #refusal(): Problem {
    const why = this.#failure ?? 'closed';
    return new Problem('EIO', `the change log ${this.#options.path} can neither be written nor removed: ${why}`, {
      remedy: 'make the state directory writable again',
    });
  }
}

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
 *     pins refused, with `EIO`.
 *
 * Rejected: writing each mask before each write (a sync per write); making `forget` wait for nothing and leave stale chunks until a
 * clean stop (a crash after the first point would read the whole disk again).
 */
import * as path from 'node:path';
import { invariant } from '../kit/invariant.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { Serial } from '../kit/serial.ts';
import { limits } from '../limits.ts';
import type { FileFacts, Files } from '../posix/files.ts';
import { HotRegions } from './hot-regions.ts';
import { noRegions, type RegionRange } from './log-activity.ts';
import { imageRecordOf, type LogWriter } from './log-writer.ts';

interface PinRequest {
  readonly first: number;
  readonly last: number;
  readonly resolve: () => void;
  readonly reject: (reason: Error) => void;
}

/** `logging` → `failing` → `disowned` or `refusing`; any of them → `closed`. */
type Mode = 'logging' | 'failing' | 'disowned' | 'refusing' | 'closed';

export interface ChangeLogOptions {
  readonly files: Files;
  readonly path: string;
  readonly writer: LogWriter;
  readonly hotRegionsMax: number;
  /** Makes all ended writes of the image durable, and reports it by `imageSynced`. */
  readonly syncImage: () => Promise<void>;
}

export class ChangeLog {
  readonly #options: ChangeLogOptions;
  readonly #writer: LogWriter;
  readonly #hot: HotRegions;
  /** 1: the chunk on disk is not what memory holds, and the region is cold. */
  readonly #stale: Uint8Array;
  readonly #queue: PinRequest[] = [];
  readonly #chunkWork = new Serial();
  #mode: Mode = 'logging';
  #failure: string | null = null;
  #pumping: Promise<void> | null = null;
  #disowning: Promise<void> | null = null;
  #coolingJob: Promise<void> | null = null;
  #starved = false;
  #wakeStarved: (() => void) | null = null;
  #rewriting: RegionRange = noRegions;
  #durableTick = 0;

  constructor(options: ChangeLogOptions) {
    this.#options = options;
    this.#writer = options.writer;
    this.#hot = new HotRegions(options.writer.layout.regionCount, options.hotRegionsMax);
    this.#stale = new Uint8Array(options.writer.layout.regionCount);
  }

  /** Why the log was given up, or null. A crash then costs a comparison by checksum. */
  get failure(): string | null {
    return this.#failure;
  }

  get hotRegions(): number {
    return this.#hot.used;
  }

  /** Pins regions `first` to `last` (at most `hotRegionsMax`). `undefined`: they were hot and are pinned now. Rejects with Problem `EIO`. */
  pin(first: number, last: number): Promise<void> | undefined {
    if (this.#mode === 'disowned') return undefined;
    if (this.#mode === 'logging' && !this.#starved && this.#hot.tryPin(first, last)) return undefined;
    invariant(last - first < this.#hot.capacity, 'a request fits into the hot set');
    if (this.#mode === 'refusing' || this.#mode === 'closed') return Promise.reject(this.#refusal());
    return new Promise((resolve, reject) => {
      this.#queue.push({ first, last, resolve, reject });
      this.#pumping ??= this.#pump();
    });
  }

  /** `undefined`: no pin waits. Else resolves when none did for a moment. */
  pinsGranted(): Promise<void> | undefined {
    return this.#pumping ?? undefined;
  }

  /** Ends one pin. */
  unpin(first: number, last: number): void {
    if (this.#mode !== 'logging') return;
    this.#hot.unpin(first, last);
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
    this.#stale[region] = 1;
  }

  /** Writes what `touch` named. Never rejects: a failure disowns the log. */
  persist(): Promise<void> {
    return this.#chunkWork.run(async () => {
      try {
        await this.#rewriteStale();
      } catch (error) {
        await this.#disown(error);
      }
    });
  }

  /**
   * Ends the log; nobody may hold a pin. `image`: facts of the image after its last sync, null when that sync failed (then the file stays
   * `open`). Returns whether the file is clean now.
   */
  async close(image: FileFacts | null): Promise<boolean> {
    await this.#pumping;
    await this.#chunkWork.idle();
    await this.#coolingJob;
    await this.#disowning;
    if (this.#mode !== 'logging') {
      this.#mode = 'closed';
      return false;
    }
    try {
      if (!image) return false;
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
      await this.#writer.writeChunks(regions, (region) => {
        this.#stale[region] = 0;
      });
      await this.#writer.sync();
      return this.#hot.endCooling(regions);
    });
  }

  /** Rewrites stale chunks of cold regions, a bounded range at a time (FORMAT.md, order 4). Runs inside `#chunkWork` or `close`. */
  async #rewriteStale(): Promise<void> {
    for (let from = 0; this.#mode === 'logging';) {
      const regions = this.#nextStale(from);
      const first = regions[0];
      const last = regions.at(-1);
      if (first === undefined || last === undefined) return;
      this.#rewriting = { first, count: last - first + 1 };
      await this.#writeActivity();
      await this.#writer.writeChunks(regions, (region) => {
        this.#stale[region] = 0;
      });
      await this.#writer.sync();
      // The range stays on disk until the next activity write; it only excuses chunks, so that costs nothing.
      this.#rewriting = noRegions;
      from = last + 1;
    }
  }

  #nextStale(from: number): number[] {
    const regions: number[] = [];
    for (let region = this.#stale.indexOf(1, from); region !== -1; region = this.#stale.indexOf(1, region + 1)) {
      // A hot region's chunk is written when it cools; the flag stays for the case that it does so around us.
      if (this.#hot.isCold(region)) regions.push(region);
      if (regions.length === limits.capture.rewriteRegionsMax) break;
    }
    return regions;
  }

  /** Invariant 5. Idempotent. */
  #disown(error: unknown): Promise<void> {
    this.#disowning ??= this.#giveUpFile(error);
    return this.#disowning;
  }

  async #giveUpFile(error: unknown): Promise<void> {
    this.#mode = 'failing';
    this.#failure = messageOf(error);
    const { files, path: logPath } = this.#options;
    try {
      await files.remove(logPath);
      await files.syncDirectory(path.dirname(logPath));
      this.#mode = 'disowned';
    } catch {
      this.#mode = (await this.#empty()) ? 'disowned' : 'refusing';
    }
    await this.#writer.close().catch(() => undefined);
    this.#wakeStarved?.();
    if (!this.#pumping) this.#settleQueue();
  }

  /** Where the directory can not be written the file may still be emptied; an empty log is a damaged one. */
  async #empty(): Promise<boolean> {
    try {
      const file = await this.#options.files.open(this.#options.path, 'write');
      try {
        await file.truncate(0);
        await file.datasync();
      } finally {
        await file.close();
      }
      return true;
    } catch {
      return false;
    }
  }

  #settleQueue(): void {
    if (this.#mode === 'logging' || this.#mode === 'failing') return;
    for (const request of this.#queue.splice(0)) {
      if (this.#mode === 'disowned') request.resolve();
      else request.reject(this.#refusal());
    }
  }

  #refusal(): Problem {
    return new Problem(
      'EIO',
      `the change log ${this.#options.path} can neither be written nor removed: ${this.#failure ?? 'closed'}`,
      {
        remedy: 'make the state directory writable again and restart the agent',
      },
    );
  }
}

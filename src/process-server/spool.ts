/**
 * The spool of the process: how much each machine may write, how full it is, and what an earlier process left (SPOOL.md, "Levels").
 *
 * Half of it is divided evenly between the machines that are here; the other half is for who comes first. So a machine can always write while it has less
 * than its part, whatever the others do.
 */
import type { Clock, Timer } from '../kit/clock.ts';
import { messageOf } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Files } from '../posix/files.ts';
import { fileBytesOf, SpoolLog, type SpoolRoom } from './spool-log.ts';
import type { SpoolOwner } from './spool-format.ts';
import { recoverSpool, type RecoveredSpool } from './spool-recovery.ts';
import { levelOf, worse, type SpoolLevel } from './spool-report.ts';

/** Where what targets do not take waits on disk. One process server has a directory for itself. */
export interface SpoolOptions {
  readonly directory: string;
  readonly bytesMax: number;
  readonly files: Files;
}

const spoolIdBytes = 16;
const machinePattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;

/** What one machine has of the spool. */
export class MachineRoom implements SpoolRoom {
  readonly machine: string;
  usedBytes = 0;
  /** What was logged last. */
  #told: SpoolLevel = 'ok';
  readonly #spool: Spool;

  constructor(machine: string, spool: Spool) {
    this.machine = machine;
    this.#spool = spool;
  }

  get level(): SpoolLevel {
    const free = this.#spool.freeFor(this);
    return levelOf(free, this.usedBytes + free);
  }

  fits(bytes: number): boolean {
    return bytes <= this.#spool.freeFor(this);
  }

  take(bytes: number): void {
    this.usedBytes += bytes;
  }

  give(bytes: number): void {
    this.usedBytes -= bytes;
  }

  /** Says so when the level changed since the last call. */
  note(logger: Logger): void {
    const { level, usedBytes } = this;
    if (level === this.#told) return;
    const isWorse = worse(level, this.#told) === level;
    this.#told = level;
    const fields = { machine: this.machine, level, usedBytes };
    if (isWorse) logger.warn(fields, 'the spool fills: the target is behind or away');
    else logger.info(fields, 'the spool drains');
  }
}

export class Spool {
  readonly #options: SpoolOptions;
  readonly #random: Random;
  readonly #logger: Logger;
  readonly #rooms = new Set<MachineRoom>();
  readonly #looking: Timer;
  /** Of the file system; null: not known. */
  #diskFreeBytes: number | null = null;

  constructor(options: SpoolOptions, parts: { clock: Clock; random: Random; logger: Logger }) {
    this.#options = options;
    this.#random = parts.random;
    this.#logger = parts.logger;
    this.#looking = parts.clock.every(limits.processServer.spoolLookMs, () => void this.#look());
  }

  get usedBytes(): number {
    let sum = 0;
    for (const { usedBytes } of this.#rooms) sum += usedBytes;
    return sum;
  }

  get limitBytes(): number {
    const { bytesMax } = this.#options;
    return this.#diskFreeBytes === null ? bytesMax : Math.min(bytesMax, this.usedBytes + this.#diskFreeBytes);
  }

  /** Of the machine that is worst off. */
  get level(): SpoolLevel {
    let level: SpoolLevel = 'ok';
    for (const room of this.#rooms) level = worse(level, room.level);
    return level;
  }

  /** For a machine that has come, until `leave`. */
  join(machine: string): MachineRoom {
    const room = new MachineRoom(machine, this);
    this.#rooms.add(room);
    return room;
  }

  leave(room: MachineRoom): void {
    this.#rooms.delete(room);
  }

  freeFor(room: MachineRoom): number {
    const half = this.limitBytes / 2;
    const part = half / Math.max(1, this.#rooms.size);
    let common = half;
    for (const { usedBytes } of this.#rooms) common -= Math.max(0, usedBytes - part);
    return Math.max(0, part - room.usedBytes) + Math.max(0, common);
  }

  log(room: MachineRoom, owner: () => SpoolOwner, recovered?: RecoveredSpool): SpoolLog {
    const { files, bytesMax } = this.#options;
    return new SpoolLog({
      files,
      directory: this.#directoryOf(room.machine),
      fileBytes: fileBytesOf(bytesMax),
      room,
      owner,
      spool: recovered?.log.spool ?? this.#random.bytes(spoolIdBytes).toString('hex'),
      ...(recovered ? { recovered: recovered.log } : {}),
    });
  }

  /** What an earlier process left. What can not be used is removed. Never rejects. */
  async recover(): Promise<RecoveredSpool[]> {
    const { files, directory } = this.#options;
    const found: RecoveredSpool[] = [];
    try {
      await files.makeDirectory(directory);
      for (const machine of (await files.list(directory)).filter((name) => machinePattern.test(name))) {
        const recovered = await this.#recover(machine);
        if (recovered) found.push(recovered);
      }
      await this.#look();
    } catch (error) {
      this.#logger.warn({ directory, reason: messageOf(error) }, 'the spool can not be looked through');
    }
    return found;
  }

  close(): void {
    this.#looking.cancel();
  }

  async #recover(machine: string): Promise<RecoveredSpool | null> {
    const { files } = this.#options;
    const directory = this.#directoryOf(machine);
    let reason = 'nothing in it can be used';
    try {
      const recovered = await recoverSpool(files, directory, machine);
      if (recovered) {
        const { dropped } = recovered;
        if (dropped.length > 0)
          this.#logger.warn({ machine, dropped }, 'a part of a spool was left out; it is sent again');
        return recovered;
      }
    } catch (error) {
      reason = messageOf(error);
    }
    this.#logger.warn({ machine, reason }, 'a spool was dropped; what was in it is sent again');
    await files.removeTree(directory).catch(() => undefined);
    return null;
  }

  #directoryOf(machine: string): string {
    return `${this.#options.directory}/${machine}`;
  }

  async #look(): Promise<void> {
    const { files, directory } = this.#options;
    try {
      this.#diskFreeBytes = await files.freeBytes(directory);
    } catch {
      // Not known is no reason to stop; writing tells.
      this.#diskFreeBytes = null;
    }
  }
}

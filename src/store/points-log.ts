/**
 * `points.log` of a machine: the truth about points. Opened for writing by the target alone; read by anyone, also while it grows.
 *
 * Invariants:
 *  1. A record counts when it is durable: the view changes and `append` resolves only after the sync.
 *  2. After a failed sync, or a write whose remains can not be removed, nothing is accepted any more: Problem
 *     `points-log-sync-failed`, which ends the process (C4).
 *  3. A bad end with nothing whole behind it is a torn record: cut off, a copy kept. A bad record with a whole one behind it is damage:
 *     the log is not opened for writing, and nothing in it is changed.
 *  4. What was read back proves nothing about the disk (a former process may have died after a failed sync): the last record is
 *     written again and synced before anything is built on it.
 */
import { messageOf, Problem, systemCode } from '../kit/problem.ts';
import { Serial } from '../kit/serial.ts';
import type { File, Files } from '../posix/files.ts';
import { decodeRecord, encodeRecord, firstPreviousHash, recordFollows, type PointsEntry } from './points-record.ts';
import { PointsView } from './points-view.ts';
import { tornCopyName } from './torn-copy.ts';

export interface PointsLogOptions {
  readonly files: Files;
  /** `points.log` of the machine. */
  readonly path: string;
  /** 16 bytes. */
  readonly machineId: Uint8Array;
}

/** What a reading of the file found. */
export interface PointsReading {
  readonly view: PointsView;
  /** Bytes of whole records. */
  readonly length: number;
  /** What follows them: nothing, the beginning of a record, or damage with whole records behind it. */
  readonly tail: 'none' | 'torn' | 'damaged';
}

interface Replayed extends PointsReading {
  readonly records: number;
  readonly lastHash: Uint8Array;
  /** Where the last whole record begins. */
  readonly lastAt: number;
}

function replayRecords(bytes: Buffer, machineId: Uint8Array): Replayed {
  const view = new PointsView();
  let lastHash = firstPreviousHash(machineId);
  let records = 0;
  let lastAt = 0;
  let at = 0;
  for (;;) {
    const state = { view, length: at, records, lastHash, lastAt };
    if (at === bytes.byteLength) return { ...state, tail: 'none' };
    const record = decodeRecord(bytes, at);
    // A whole record that does not fit its place was put there: that is damage, not a torn end.
    if (!record) return { ...state, tail: recordFollows(bytes, at + 1) ? 'damaged' : 'torn' };
    const fits = record.number === records && Buffer.compare(record.previousHash, lastHash) === 0;
    if (!fits || !record.entry || view.objection(record.entry) !== null) return { ...state, tail: 'damaged' };
    view.apply(record.entry);
    lastHash = record.hash;
    records += 1;
    lastAt = at;
    at += record.bytes;
  }
}

async function readIfThere(files: Files, path: string): Promise<Buffer> {
  try {
    return await files.readWhole(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return Buffer.alloc(0);
    throw error;
  }
}

/** For recovery tools: reads what is there, changes nothing, may run beside a writer. A missing file holds no points. */
export async function readPoints(options: PointsLogOptions): Promise<PointsReading> {
  const { view, length, tail } = replayRecords(await readIfThere(options.files, options.path), options.machineId);
  return { view, length, tail };
}

function syncFailed(path: string, cause: unknown): Problem {
  return new Problem('points-log-sync-failed', `${path} could not be made durable: ${messageOf(cause)}`, {
    remedy: 'check the health of the disk under the store, then start again; acknowledged points are kept',
    cause,
  });
}

type State =
  { readonly kind: 'open' } | { readonly kind: 'failed'; readonly problem: Problem } | { readonly kind: 'closed' };

export class PointsLog {
  readonly view: PointsView;
  /** A torn end that was cut off when the log was opened: where it began, and where the copy lies. */
  readonly repaired: { readonly offset: number; readonly copy: string } | null;
  readonly #file: File;
  readonly #inOrder = new Serial();
  #state: State = { kind: 'open' };
  #length: number;
  #records: number;
  #lastHash: Uint8Array;

  private constructor(file: File, replayed: Replayed, repaired: PointsLog['repaired']) {
    this.#file = file;
    this.view = replayed.view;
    this.#length = replayed.length;
    this.#records = replayed.records;
    // A copy: a view would keep the whole file in memory.
    this.#lastHash = Uint8Array.from(replayed.lastHash);
    this.repaired = repaired;
  }

  /**
   * Opens the log for writing, makes it if missing, cuts off a torn end.
   * @throws Problem `damaged` (invariant 3), `points-log-sync-failed` (invariant 4).
   */
  static async open(options: PointsLogOptions): Promise<PointsLog> {
    const { files, path, machineId } = options;
    const directory = path.slice(0, path.lastIndexOf('/'));
    const bytes = await readIfThere(files, path);
    const replayed = replayRecords(bytes, machineId);
    const { length, lastAt, tail } = replayed;
    if (tail === 'damaged') {
      throw new Problem(
        'damaged',
        `${path} is damaged at byte ${length}, after ${replayed.view.points.length} points`,
        {
          remedy:
            'points before the damage can still be read and exported; restore the file from a copy before it is written again',
        },
      );
    }
    let repaired: PointsLog['repaired'] = null;
    if (tail === 'torn') {
      const copy = await tornCopyName(files, path);
      await files.replaceFile(copy, bytes.subarray(length));
      repaired = { offset: length, copy };
    }
    const file = await files.open(path, 'create');
    try {
      if (tail === 'torn') await file.truncate(length);
      if (length > 0) await file.write([bytes.subarray(lastAt, length)], lastAt);
      await file.datasync();
      await files.syncDirectory(directory);
    } catch (error) {
      await file.close();
      throw syncFailed(path, error);
    }
    return new PointsLog(file, replayed, repaired);
  }

  /**
   * Makes one entry durable, then shows it in the view. In call order.
   * @throws Problem `points-log-sync-failed` (final), `full` (retryable: nothing changed), `bad-record` (it can not follow what is there).
   */
  append(entry: PointsEntry): Promise<void> {
    return this.#inOrder.run(() => this.#append(entry));
  }

  /** Idempotent. */
  close(): Promise<void> {
    return this.#inOrder.run(async () => {
      if (this.#state.kind === 'closed') return;
      this.#state = { kind: 'closed' };
      await this.#file.close();
    });
  }

  async #append(entry: PointsEntry): Promise<void> {
    if (this.#state.kind === 'failed') throw this.#state.problem;
    if (this.#state.kind === 'closed')
      throw new Problem('store-failed', `${this.#file.path} is closed`, { retryable: true });
    const objection = this.view.objection(entry);
    if (objection !== null) throw new Problem('bad-record', `${this.#file.path}: ${objection}`);
    const bytes = encodeRecord(entry, { number: this.#records, previousHash: this.#lastHash });
    try {
      await this.#file.write([bytes], this.#length);
    } catch (error) {
      throw await this.#undo(error);
    }
    try {
      await this.#file.datasync();
    } catch (error) {
      throw this.#fail(error);
    }
    this.#length += bytes.byteLength;
    this.#records += 1;
    this.#lastHash = bytes.slice(bytes.byteLength - 32);
    this.view.apply(entry);
  }

  /** Out of space leaves part of a record behind: removed, the log goes on. Any other failed write is final. */
  async #undo(error: unknown): Promise<Problem> {
    const code = systemCode(error);
    if (code !== 'ENOSPC' && code !== 'EDQUOT') return this.#fail(error);
    try {
      await this.#file.truncate(this.#length);
    } catch (again) {
      return this.#fail(again);
    }
    return new Problem('full', `${this.#file.path}: no space left`, {
      remedy: 'free some space on its file system',
      retryable: true,
      cause: error,
    });
  }

  #fail(error: unknown): Problem {
    const problem = syncFailed(this.#file.path, error);
    this.#state = { kind: 'failed', problem };
    return problem;
  }
}

/**
 * The file of a change log that is open for writing: header, activity and chunks, each in its place (FORMAT.md). What to write
 * and in which order is decided by `change-log.ts`.
 */
import { Buffer } from 'node:buffer';
import * as path from 'node:path';
import { Serial } from '../kit/serial.ts';
import type { File, FileFacts, Files } from '../posix/files.ts';
import { encodeActivity, noRegions, type RegionRange } from './log-activity.ts';
import { encodeChunk } from './log-chunk.ts';
import { encodeHeader, imageRecordOf, type ImageRecord, type LogHeader, type LogState } from './log-header.ts';
import { activityAt, chunkOffset, headerAt, type LogLayout } from './log-layout.ts';

/** Bytes of chunks written at a time: what is made in one turn of the event loop, while writers wait. */
const windowBytes = 128 * 1024;

/** Fills `into` with the masks of the union of a region's sets. */
export type UnionOf = (region: number, into: Uint16Array) => void;

export class LogWriter {
  readonly layout: LogLayout;
  readonly #file: File;
  readonly #unionOf: UnionOf;
  readonly #masks: Uint16Array;
  readonly #activityWrites = new Serial();
  #header: LogHeader;
  #activitySequence: bigint;

  constructor(options: {
    file: File;
    layout: LogLayout;
    header: LogHeader;
    activitySequence: bigint;
    unionOf: UnionOf;
  }) {
    this.#file = options.file;
    this.layout = options.layout;
    this.#header = options.header;
    this.#activitySequence = options.activitySequence;
    this.#unionOf = options.unionOf;
    this.#masks = new Uint16Array(options.layout.blocksPerRegion);
  }

  /** Durable when it resolves. The slot that counts now is not touched. */
  async writeHeader(state: LogState, image: ImageRecord): Promise<void> {
    const header = { ...this.#header, state, image, sequence: this.#header.sequence + 1n };
    await this.#file.write([encodeHeader(header)], headerAt[Number(header.sequence % 2n)] ?? 0);
    await this.#file.datasync();
    this.#header = header;
  }

  /** Durable when it resolves. `regions` is asked when the write begins, so that what came together travels together. */
  writeActivity(regions: () => Uint32Array, rewriting: () => RegionRange = () => noRegions): Promise<void> {
    return this.#activityWrites.run(async () => {
      const sequence = this.#activitySequence + 1n;
      const slot = encodeActivity({ sequence, regions: regions(), rewriting: rewriting() }, this.#header.logId);
      await this.#file.write([slot], activityAt[Number(sequence % 2n)] ?? 0);
      await this.#file.datasync();
      this.#activitySequence = sequence;
    });
  }

  /** Writes the chunks of `regions` (ascending), neighbours together. Not yet durable. `taken` is called as each union is taken. */
  async writeChunks(regions: Iterable<number>, taken?: (region: number) => void): Promise<void> {
    const { chunkBytes } = this.layout;
    const perWindow = Math.max(1, Math.floor(windowBytes / chunkBytes));
    let run: Buffer[] = [];
    let start = 0;
    const send = async (): Promise<void> => {
      const parts = run;
      run = [];
      if (parts.length > 0) await this.#file.write([Buffer.concat(parts)], chunkOffset(this.layout, start));
    };
    for (const region of regions) {
      if (run.length === perWindow || region !== start + run.length) await send();
      if (run.length === 0) start = region;
      const chunk = Buffer.alloc(chunkBytes);
      taken?.(region);
      this.#unionOf(region, this.#masks);
      encodeChunk(this.layout, this.#header.logId, region, this.#masks, chunk);
      run.push(chunk);
    }
    await send();
  }

  sync(): Promise<void> {
    return this.#file.datasync();
  }

  async close(): Promise<void> {
    await this.#activityWrites.idle();
    await this.#file.close();
  }
}

export interface CreateOptions {
  readonly files: Files;
  readonly path: string;
  readonly owner: string;
  readonly logId: Uint8Array;
  readonly layout: LogLayout;
  readonly state: LogState;
  readonly image: FileFacts;
  readonly unionOf: UnionOf;
}

const temporaryName = (logPath: string): string => `${logPath}.new`;

/** Makes a whole new log that says what `unionOf` says, and puts it in place. */
export async function createLog(options: CreateOptions): Promise<LogWriter> {
  const writer = await buildLog(options);
  try {
    await installLog(options.files, options.path);
    return writer;
  } catch (error) {
    await writer.close();
    throw error;
  }
}

/** Puts what `buildLog` made in place, atomically and durably. */
export async function installLog(files: Files, logPath: string): Promise<void> {
  await files.rename(temporaryName(logPath), logPath);
  await files.syncDirectory(path.dirname(logPath));
}

/** Makes a whole new log that says what `unionOf` says of each region when its turn comes, under its temporary name, synced. */
export async function buildLog(options: CreateOptions): Promise<LogWriter> {
  const { files, layout, owner, logId, state, image } = options;
  const temporary = temporaryName(options.path);
  await files.remove(temporary);
  const file = await files.open(temporary, 'exclusive', 0o600);
  try {
    const { size, blockSize } = layout.geometry;
    const header: LogHeader = {
      state,
      sequence: 0n,
      logId,
      size,
      blockSize,
      regionBytes: layout.regionBytes,
      image: imageRecordOf(image),
      owner,
    };
    const writer = new LogWriter({ file, layout, header, activitySequence: 0n, unionOf: options.unionOf });
    file.allocateSync(0, layout.fileBytes, false);
    await writer.writeChunks(allRegions(layout));
    // Both slots of both kinds are valid from the start: a slot that does not check was torn or damaged, never unwritten.
    for (let slot = 0; slot < 2; slot += 1) {
      await writer.writeActivity(() => new Uint32Array(0));
      await writer.writeHeader(state, header.image);
    }
    return writer;
  } catch (error) {
    await file.close();
    throw error;
  }
}

function* allRegions(layout: LogLayout): Generator<number> {
  for (let region = 0; region < layout.regionCount; region += 1) yield region;
}

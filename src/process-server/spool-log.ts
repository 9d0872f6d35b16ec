/**
 * What is spooled of one machine: a chain of entries over files of bounded size, written at the end, read in order, removed from the front (SPOOL.md).
 *
 *   files[0] … ─── answered ─── sent ───┤cursor├─── unread ───┤end
 *
 * Invariants:
 *  1. An entry counts from when it was written whole; what a failed write left behind `bytes` of its file is not part of the log. The file is given up,
 *     and the next entry begins a new one, which continues the chain.
 *  2. A layer's CYCLE is before its first batch here, and repeated by the header of each file in which the layer goes on: what is in front may go.
 *  3. A file is removed when all its entries are answered, and only then. That fails without harm: what is sent twice is stored once.
 *  4. Bytes are the share's from before they are written until their file is removed. One `append` and one `read` at a time.
 */
import { Problem, messageOf } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { File, Files } from '../posix/files.ts';
import type { Cycle } from '../wire/cycle.ts';
import { decodeCycle, encodeCycle } from '../wire/cycle.ts';
import { frameHeaderBytes, frameType, viewOf } from '../wire/frame.ts';
import {
  decodeEntryHeader,
  encodeEntryHeader,
  encodeFileHeader,
  entryHeaderBytes,
  isFrameOf,
  noChain,
  type SpoolOwner,
} from './spool-format.ts';

/** A layer as it is begun at the target. */
export interface LayerStart {
  readonly disk: number;
  readonly seq: number;
  readonly kind: Cycle['kind'];
  /** CYCLE with its salt. */
  readonly frame: Uint8Array;
}

export interface SpoolFile {
  readonly path: string;
  readonly number: number;
  readonly headerBytes: number;
  /** Index of its first entry, and chain of the entry before. */
  readonly first: number;
  readonly before: Uint8Array;
  /** Index behind its last entry. */
  end: number;
  bytes: number;
}

/** Where an entry begins. */
export interface Place {
  readonly file: SpoolFile;
  readonly at: number;
  readonly index: number;
  /** Chain of the entry before. */
  readonly before: Uint8Array;
}

export interface ReadEntry {
  readonly place: Place;
  /** In memory of the caller's. */
  readonly frame: Uint8Array;
  readonly plainBytes: number;
  /** Of its disk, as of this entry. */
  readonly layer: LayerStart | null;
}

/** Room on disk for one machine. */
export interface SpoolRoom {
  /** Whether so much more may be written now. */
  fits(bytes: number): boolean;
  take(bytes: number): void;
  give(bytes: number): void;
}

/** What a start found. */
export interface RecoveredLog {
  readonly spool: string;
  readonly files: readonly SpoolFile[];
  readonly chain: Uint8Array;
  /** Layers that go on in the first file, and behind the last entry. */
  readonly firstLayers: readonly LayerStart[];
  readonly lastLayers: readonly LayerStart[];
}

export interface SpoolLogOptions {
  readonly files: Files;
  readonly directory: string;
  readonly fileBytes: number;
  readonly room: SpoolRoom;
  /** 16 random bytes in hex. */
  readonly spool: string;
  /** As of now. */
  readonly owner: () => SpoolOwner;
  readonly recovered?: RecoveredLog;
}

const numberDigits = 10;
export const fileNamePattern = /^(\d{10})\.spool$/;
const nameOf = (number: number): string => `${String(number).padStart(numberDigits, '0')}.spool`;

export const layerStartOf = (cycle: Cycle): LayerStart => ({
  disk: cycle.disk,
  seq: cycle.seq,
  kind: cycle.kind,
  frame: encodeCycle(cycle),
});

function lost(why: string, cause?: unknown): Problem {
  return new Problem('layer-unknown', `what was spooled of the machine is lost: ${why}`, {
    remedy: 'nothing: the agent sends it again; look at the disk of the process server',
    retryable: true,
    cause,
  });
}

export class SpoolLog {
  readonly #options: SpoolLogOptions;
  #files: SpoolFile[] = [];
  #chain: Uint8Array = noChain;
  #end = 0;
  #nextNumber = 0;
  #writer: { readonly file: SpoolFile; readonly handle: File } | null = null;
  #appending = false;
  /** Where the next entry to be read begins; null: in the first file, or nowhere. */
  #cursor: Place | null = null;
  #reader: { readonly file: SpoolFile; readonly handle: File } | null = null;
  #unreadBytes = 0;
  /** By disk: the layer at the end, and at the cursor. */
  readonly #written = new Map<number, LayerStart>();
  readonly #read = new Map<number, LayerStart>();
  #removing: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(options: SpoolLogOptions) {
    this.#options = options;
    const { recovered } = options;
    if (!recovered) return;
    this.#files = [...recovered.files];
    this.#chain = recovered.chain;
    const last = this.#files.at(-1);
    this.#end = last?.end ?? 0;
    this.#nextNumber = (last?.number ?? -1) + 1;
    for (const layer of recovered.firstLayers) this.#read.set(layer.disk, layer);
    for (const layer of recovered.lastLayers) this.#written.set(layer.disk, layer);
    for (const { bytes, headerBytes } of this.#files) this.#unreadBytes += bytes - headerBytes;
    options.room.take(this.bytes);
  }

  /** Bytes behind the cursor. */
  get unreadBytes(): number {
    return this.#unreadBytes;
  }

  /** Where what is read next begins; null: nothing is unread. */
  get next(): Place | null {
    const { file, index } = this.#cursor ?? { file: null, index: -1 };
    if (this.#cursor && file && index < file.end) return this.#cursor;
    const next = file ? this.#files[this.#files.indexOf(file) + 1] : this.#files[0];
    return next ? { file: next, at: next.headerBytes, index: next.first, before: next.before } : null;
  }

  /** On disk, answered or not. */
  get bytes(): number {
    return this.#files.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /**
   * Writes a frame at the end, behind the CYCLE of its layer if that is not there. Answers where it is; null: there is no room. @throws what the disk says;
   * then nothing was written.
   */
  async append(frame: Uint8Array, plainBytes: number, layer: LayerStart | null): Promise<Place | null> {
    let [chain, index, bytes] = [this.#chain, this.#end, 0];
    let last = { at: 0, before: chain };
    const parts: Uint8Array[] = [];
    const add = (each: Uint8Array, plain: number): void => {
      last = { at: bytes, before: chain };
      const header = encodeEntryHeader({ frame: each, index, plainBytes: plain, before: chain });
      parts.push(header.bytes, each);
      chain = header.chain;
      index += 1;
      bytes += entryHeaderBytes + each.byteLength;
    };
    if (layer && layer.frame !== frame && this.#written.get(layer.disk)?.seq !== layer.seq) add(layer.frame, 0); // 2
    add(frame, plainBytes);
    const { room } = this.#options;
    if (!room.fits(bytes)) return null;
    room.take(bytes);
    this.#appending = true;
    try {
      const { file, handle } = await this.#writable();
      await handle.write(parts, file.bytes);
      const place = { file, at: file.bytes + last.at, index: index - 1, before: last.before };
      file.bytes += bytes;
      file.end = index;
      [this.#chain, this.#end] = [chain, index];
      this.#unreadBytes += bytes;
      if (layer) this.#written.set(layer.disk, layer);
      return place;
    } catch (error) {
      room.give(bytes);
      await this.#giveUpWriter(); // 1
      throw error;
    } finally {
      this.#appending = false;
    }
  }

  /** All that was written counts as read: what was just appended had been sent before. */
  skip(): void {
    const file = this.#files.at(-1);
    if (!file) return;
    this.#cursor = { file, at: file.bytes, index: this.#end, before: this.#chain };
    this.#unreadBytes = 0;
    for (const [disk, layer] of this.#written) this.#read.set(disk, layer);
  }

  /** The entry at the cursor, which goes on behind it. @param memory for a frame of so many bytes. @throws Problem `layer-unknown`: it is lost. */
  async read(memory: (bytes: number) => Uint8Array): Promise<ReadEntry> {
    const place = this.next;
    if (!place) throw lost('nothing is there');
    try {
      const handle = await this.#readable(place.file);
      const start = new Uint8Array(entryHeaderBytes);
      await handle.read(start, place.at);
      const header = decodeEntryHeader(start, place.index, place.before);
      if (!header || header.frameBytes < frameHeaderBytes) throw lost(`entry ${place.index} in ${place.file.path}`);
      const frame = memory(header.frameBytes);
      const got = await handle.read(frame, place.at + entryHeaderBytes);
      if (got < frame.byteLength || !isFrameOf(header, frame)) throw lost(`frame ${place.index} in ${place.file.path}`);
      const at = place.at + entryHeaderBytes + header.frameBytes;
      this.#cursor = { file: place.file, at, index: place.index + 1, before: header.chain };
      this.#unreadBytes -= entryHeaderBytes + header.frameBytes;
      const disk = viewOf(frame).getUint16(2, true);
      if (frame[0] === frameType.cycle)
        this.#read.set(disk, layerStartOf(decodeCycle(frame.subarray(frameHeaderBytes))));
      return { place, frame, plainBytes: header.plainBytes, layer: this.#read.get(disk) ?? null };
    } catch (error) {
      throw error instanceof Problem ? error : lost(messageOf(error), error);
    }
  }

  /** The next to be read is the entry at `place` again. @param layers of the entries from there on. */
  rewind(place: Place, layers: readonly (LayerStart | null)[]): void {
    this.#cursor = place;
    this.#unreadBytes = 0;
    for (const file of this.#files) {
      if (file === place.file) this.#unreadBytes += file.bytes - place.at;
      else if (file.first > place.index) this.#unreadBytes += file.bytes - file.headerBytes;
    }
    const seen = new Set<number>();
    for (const layer of layers) {
      if (!layer || seen.has(layer.disk)) continue;
      seen.add(layer.disk);
      this.#read.set(layer.disk, layer);
    }
  }

  /** All that was read is answered but what is at or behind `oldest`; null: all of it. */
  trim(oldest: Place | null): void {
    const index = oldest?.index ?? (this.#unreadBytes > 0 ? (this.next?.index ?? 0) : this.#end);
    while (this.#files[0] && this.#files[0].end <= index) {
      const file = this.#files[0];
      if (this.#appending && file === this.#files.at(-1)) return; // It is written to, or being given up.
      if (this.#writer?.file === file) {
        this.#removing = Promise.all([this.#removing, this.#writer.handle.close().catch(() => undefined)]);
        this.#writer = null;
      }
      if (this.#reader?.file === file) this.#closeReader();
      if (this.#cursor?.file === file) this.#cursor = null;
      this.#files.shift();
      this.#options.room.give(file.bytes);
      const gone = (): Promise<unknown> => this.#options.files.remove(file.path).catch(() => undefined); // 3
      this.#removing = this.#removing.then(gone);
    }
  }

  /** Shuts the files; what is in them stays. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const { bytes } of this.#files) this.#options.room.give(bytes);
    this.#closeReader();
    const writer = this.#writer;
    this.#writer = null;
    await writer?.handle.close().catch(() => undefined);
    await this.#removing;
  }

  /** Removes all of it. */
  async drop(): Promise<void> {
    await this.close();
    await this.#options.files.removeTree(this.#options.directory).catch(() => undefined);
  }

  async #writable(): Promise<{ readonly file: SpoolFile; readonly handle: File }> {
    if (this.#writer && this.#writer.file.bytes < this.#options.fileBytes) return this.#writer;
    await this.#writer?.handle.close().catch(() => undefined);
    this.#writer = null;
    const { files, directory, spool, owner, room } = this.#options;
    await files.makeDirectory(directory);
    const [number, first, before] = [this.#nextNumber, this.#end, this.#chain];
    this.#nextNumber += 1;
    const cycles = [...this.#written.values()].map(({ frame }) => decodeCycle(frame.subarray(frameHeaderBytes)));
    const header = encodeFileHeader({ ...owner(), spool, cycles, first, before });
    const path = `${directory}/${nameOf(number)}`;
    const handle = await files.open(path, 'exclusive');
    try {
      await handle.write([header], 0);
    } catch (error) {
      await handle.close().catch(() => undefined);
      await files.remove(path).catch(() => undefined);
      throw error;
    }
    const headerBytes = header.byteLength;
    const file = { path, number, headerBytes, first, before, end: first, bytes: headerBytes };
    room.take(headerBytes);
    this.#files.push(file);
    this.#writer = { file, handle };
    return this.#writer;
  }

  async #giveUpWriter(): Promise<void> {
    const writer = this.#writer;
    this.#writer = null;
    if (!writer) return;
    const { file, handle } = writer;
    // Best effort: what stands behind is no part of the log.
    if (file.end > file.first) await handle.truncate(file.bytes).catch(() => undefined);
    await handle.close().catch(() => undefined);
    if (file.end > file.first) return;
    this.#files = this.#files.filter((each) => each !== file);
    this.#options.room.give(file.bytes);
    await this.#options.files.remove(file.path).catch(() => undefined);
  }

  async #readable(file: SpoolFile): Promise<File> {
    if (this.#reader?.file === file) return this.#reader.handle;
    this.#closeReader();
    const handle = await this.#options.files.open(file.path, 'read');
    if (this.#closed) {
      await handle.close();
      throw lost('it was closed');
    }
    this.#reader = { file, handle };
    return handle;
  }

  #closeReader(): void {
    const reader = this.#reader;
    this.#reader = null;
    void reader?.handle.close().catch(() => undefined);
  }
}

/** Of a log's files, by what a machine may have. */
export function fileBytesOf(bytesMax: number): number {
  const { spoolFileBytes } = limits.processServer;
  return Math.min(spoolFileBytes, Math.max(Math.ceil(bytesMax / 64), spoolFileBytes / 64));
}

/**
 * What an earlier process left of one machine's spool: walks the chain by headers alone, and reads the frames only of CYCLE and POINT (SPOOL.md). A frame
 * is held against its digest when it is sent.
 */
import { frameHeaderBytes, frameType, readU64, viewOf } from '../wire/frame.ts';
import { decodeCycle } from '../wire/cycle.ts';
import { decodePointMessage } from '../wire/point.ts';
import type { File, Files } from '../posix/files.ts';
import { isProblem, systemCode } from '../kit/problem.ts';
import {
  decodeEntryHeader,
  decodeFileHeader,
  entryHeaderBytes,
  fileHeaderBytes,
  fileHeaderStartBytes,
  isFrameOf,
  type EntryHeader,
  type FileHeader,
  type SpoolOwner,
} from './spool-format.ts';
import { fileNamePattern, layerStartOf, type LayerStart, type RecoveredLog, type SpoolFile } from './spool-log.ts';
import { WaitingPoints } from './waiting-points.ts';

export interface RecoveredSpool {
  readonly owner: SpoolOwner;
  readonly log: RecoveredLog;
  readonly points: WaitingPoints;
  /** What was left out, for people. */
  readonly dropped: readonly string[];
}

/** As far as a frame says what it is: frame header, then `seq` of a SEALED. */
const frameStartBytes = frameHeaderBytes + 8;

async function readFully(file: File, at: number, bytes: number): Promise<Uint8Array | null> {
  const into = new Uint8Array(bytes);
  return (await file.read(into, at)) === bytes ? into : null;
}

async function headerOf(file: File): Promise<{ readonly header: FileHeader; readonly bytes: number } | null> {
  const start = await readFully(file, 0, fileHeaderStartBytes);
  const bytes = start && fileHeaderBytes(start);
  const whole = bytes === null ? null : await readFully(file, 0, bytes);
  const header = whole && decodeFileHeader(whole);
  return header && bytes !== null ? { header, bytes } : null;
}

/** What is known while the chain is walked. */
class Walk {
  readonly points = new WaitingPoints();
  readonly layers = new Map<number, LayerStart>();
  readonly files: SpoolFile[] = [];
  readonly dropped: string[] = [];
  chain: Uint8Array = new Uint8Array(0);
  first: FileHeader | null = null;
  /** Of the newest file, which knows the newest point. */
  newest: FileHeader | null = null;

  /** Walks one file; false: the chain ends with the file before. */
  async file(file: File, number: number, machine: string): Promise<boolean> {
    const found = await headerOf(file);
    if (!found) return this.#ends(`${file.path} has no header`);
    const { header, bytes } = found;
    const last = this.files.at(-1);
    if (header.machine !== machine) return this.#ends(`${file.path} is of ${header.machine}`);
    if (this.first && header.spool !== this.first.spool) return this.#ends(`${file.path} is of another spool`);
    if (last && (header.first !== last.end || Buffer.compare(header.before, this.chain) !== 0))
      return this.#ends(`${file.path} does not continue what is before it`);
    this.first ??= header;
    this.newest = header;
    this.chain = header.before;
    for (const cycle of header.cycles) this.layers.set(cycle.disk, layerStartOf(cycle));
    const { first, before } = header;
    const entry: SpoolFile = { path: file.path, number, headerBytes: bytes, first, before, end: first, bytes };
    this.files.push(entry);
    const { size } = file.facts();
    while (size > entry.bytes && (await this.#entry(file, entry, size)));
    return true;
  }

  /** One entry more; false: the file ends before it. */
  async #entry(file: File, into: SpoolFile, size: number): Promise<boolean> {
    const start = await readFully(file, into.bytes, entryHeaderBytes);
    const header = start && decodeEntryHeader(start, into.end, this.chain);
    const frameAt = into.bytes + entryHeaderBytes;
    if (!header || header.frameBytes < frameHeaderBytes || frameAt + header.frameBytes > size) {
      this.dropped.push(`${file.path} from byte ${into.bytes}`);
      return false;
    }
    if (!(await this.#understood(file, frameAt, header))) {
      this.dropped.push(`${file.path} from byte ${into.bytes}`);
      return false;
    }
    this.chain = header.chain;
    into.bytes = frameAt + header.frameBytes;
    into.end += 1;
    return true;
  }

  async #understood(file: File, at: number, header: EntryHeader): Promise<boolean> {
    const start = await readFully(file, at, Math.min(frameStartBytes, header.frameBytes));
    if (!start) return false;
    const [type, disk] = [start[0], viewOf(start).getUint16(2, true)];
    if (type === frameType.sealed && start.byteLength === frameStartBytes) {
      this.points.batch(disk, readU64(viewOf(start), frameHeaderBytes));
      return true;
    }
    if (type !== frameType.cycle && type !== frameType.point) return type === frameType.gap;
    const frame = await readFully(file, at, header.frameBytes);
    if (!frame || !isFrameOf(header, frame)) return false;
    const body = frame.subarray(frameHeaderBytes);
    try {
      if (type === frameType.point) this.points.add(decodePointMessage(body)).spooled = true;
      else this.layers.set(disk, layerStartOf(decodeCycle(body)));
      return true;
    } catch (error) {
      if (isProblem(error)) return false;
      throw error;
    }
  }

  #ends(why: string): false {
    this.dropped.push(why);
    return false;
  }
}

/** Null: there is nothing to be sent. @throws what the disk says. */
export async function recoverSpool(files: Files, directory: string, machine: string): Promise<RecoveredSpool | null> {
  const numbers = (await files.list(directory)).flatMap((name) => {
    const match = fileNamePattern.exec(name);
    return match ? [Number(match[1])] : [];
  });
  const walk = new Walk();
  let firstLayers: readonly LayerStart[] = [];
  for (const number of numbers.sort((a, b) => a - b)) {
    const file = await openIfThere(files, `${directory}/${String(number).padStart(10, '0')}.spool`);
    if (!file) continue;
    try {
      const isFirst = walk.first === null;
      // A later one that is bad is passed over: the next must continue the chain anyway.
      if (!(await walk.file(file, number, machine)) && isFirst) break;
      if (isFirst && walk.first) firstLayers = walk.first.cycles.map(layerStartOf);
    } finally {
      await file.close();
    }
  }
  const { first, newest, points, dropped, chain, layers } = walk;
  if (!first || !newest || walk.files.every(({ first: from, end }) => from === end)) return null;
  const lastLayers = [...layers.values()];
  const { instance, epoch, disks, spool } = newest;
  return {
    owner: { machine, instance, epoch, disks },
    points,
    dropped,
    log: { spool, files: walk.files, chain, firstLayers, lastLayers },
  };
}

async function openIfThere(files: Files, path: string): Promise<File | null> {
  try {
    return await files.open(path, 'read');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw error;
  }
}

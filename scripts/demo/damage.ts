/** Damage on purpose, for the quickstart's `--sabotage` and for tests: finds its way in a segment file by what FORMAT.md says. */
import { open, readdir, readFile } from 'node:fs/promises';
import * as path from 'node:path';

const segmentHeaderBytes = 64;
export const entryHeaderBytes = 64;
const entryMagic = 0x45534d54;
export const entryType = { layer: 1, batch: 2 } as const;
/** A BATCH body: a prefix of this size, then rows, then payloads. */
export const batchPrefixBytes = 64;
const rowBytes = 72;

export interface SegmentEntry {
  readonly type: number;
  /** Where its header begins. */
  readonly at: number;
  readonly bodyLength: number;
}

/** The entries of a segment file, in order, up to its end. */
export function entriesOf(segment: Buffer): SegmentEntry[] {
  const entries: SegmentEntry[] = [];
  for (let at = segmentHeaderBytes; at + entryHeaderBytes <= segment.length;) {
    if (segment.readUInt32LE(at) !== entryMagic) break;
    const bodyLength = segment.readUInt32LE(at + 8);
    entries.push({ type: segment.readUInt8(at + 4), at, bodyLength });
    at += Math.ceil((entryHeaderBytes + bodyLength) / 8) * 8;
  }
  return entries;
}

/** Path of the oldest segment of a machine in a target's directory. */
export async function firstSegment(targetData: string, machine: string): Promise<string> {
  const directory = path.join(targetData, 'machines', machine, 'segments');
  const name = (await readdir(directory)).filter((each) => each.endsWith('.seg')).sort()[0];
  if (name === undefined) throw new Error(`${directory} has no segment`);
  return path.join(directory, name);
}

/** Flips one bit of a file. */
export async function flipBit(file: string, offset: number, bit: number): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    const byte = Buffer.alloc(1);
    await handle.read(byte, 0, 1, offset);
    byte[0] = (byte[0] ?? 0) ^ (1 << bit);
    await handle.write(byte, 0, 1, offset);
  } finally {
    await handle.close();
  }
}

/**
 * Where the first payload of the initial replication ends: the first batches hold the first blocks of the disk, which the quickstart's
 * writer never writes to, so every point relies on that byte.
 */
export async function firstPayload(segment: string): Promise<number> {
  for (const { type, at, bodyLength } of entriesOf(await readFile(segment))) {
    if (type === entryType.batch && bodyLength > batchPrefixBytes + rowBytes * 16 + 4096)
      return at + entryHeaderBytes + bodyLength - 32;
  }
  throw new Error(`${segment} holds no payload to sabotage`);
}

/** A region's chunk of a change log: its page masks. Encode and decode side by side. Layout: FORMAT.md. */
import { Buffer } from 'node:buffer';
import { digest } from '../kernels/hash.ts';
import { checks } from './log-header.ts';
import { checkBytes, chunkHeadBytes, type LogLayout } from './log-layout.ts';

const magic = Buffer.from('TMHC', 'ascii');
const logIdPrefixBytes = 8;

/** Fills `into` (chunkBytes). `masks` has blocksPerRegion entries. */
export function encodeChunk(
  layout: LogLayout,
  logId: Uint8Array,
  region: number,
  masks: Uint16Array,
  into: Buffer,
): void {
  into.fill(0);
  magic.copy(into, 0);
  into.writeUInt32LE(region, 4);
  into.set(logId.subarray(0, logIdPrefixBytes), 8);
  for (let index = 0; index < layout.blocksPerRegion; index += 1)
    into.writeUInt16LE(masks[index] ?? 0, chunkHeadBytes + 2 * index);
  const end = layout.chunkBytes - checkBytes;
  into.set(digest(into.subarray(0, end)), end);
}

/** Fills `masks`; false (masks then undefined) when the chunk does not check or is another region's or log's. */
export function decodeChunk(
  layout: LogLayout,
  logId: Uint8Array,
  region: number,
  chunk: Buffer,
  masks: Uint16Array,
): boolean {
  if (magic.compare(chunk, 0, 4) !== 0 || chunk.readUInt32LE(4) !== region) return false;
  if (Buffer.compare(chunk.subarray(8, chunkHeadBytes), logId.subarray(0, logIdPrefixBytes)) !== 0) return false;
  if (!checks(chunk)) return false;
  for (let index = 0; index < layout.blocksPerRegion; index += 1)
    masks[index] = chunk.readUInt16LE(chunkHeadBytes + 2 * index);
  return true;
}

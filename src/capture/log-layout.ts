/** Where things lie in a change-log file; the text is FORMAT.md. Pure arithmetic. */
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import type { Geometry } from '../disk/geometry.ts';

export const logVersion = 1;
export const slotBytes = 4096;
export const checkBytes = 32;
/** Everything in a slot before its check. */
export const slotCheckedBytes = slotBytes - checkBytes;
export const logIdBytes = 16;
export const headerAt = [0, slotBytes] as const;
const activityCopies = 2;
export const activityBytes = activityCopies * slotBytes;
export const activityAt = [2 * slotBytes, 2 * slotBytes + activityBytes] as const;
export const chunksAt = 2 * slotBytes + 2 * activityBytes;
export const chunkHeadBytes = 16;
export const activityHeadBytes = 64;
/** How many hot regions fit into a slot. */
export const activityRegionsMax = (slotCheckedBytes - activityHeadBytes) / 4;

invariant(limits.capture.hotRegionsMax <= activityRegionsMax, 'the hot set fits into an activity slot');
invariant(limits.capture.regionBytes % limits.disk.blockBytesMax === 0, 'a region is a whole number of blocks');

export interface LogLayout {
  readonly geometry: Geometry;
  readonly regionBytes: number;
  readonly regionCount: number;
  readonly blocksPerRegion: number;
  readonly chunkBytes: number;
  readonly fileBytes: number;
}

export function layoutOf(geometry: Geometry): LogLayout {
  const { regionBytes } = limits.capture;
  const { sectorBytes } = limits.disk;
  const regionCount = Math.ceil(geometry.size / regionBytes);
  const blocksPerRegion = regionBytes / geometry.blockSize;
  const chunkBytes = Math.ceil((chunkHeadBytes + 2 * blocksPerRegion + checkBytes) / sectorBytes) * sectorBytes;
  return {
    geometry,
    regionBytes,
    regionCount,
    blocksPerRegion,
    chunkBytes,
    fileBytes: chunksAt + regionCount * chunkBytes,
  };
}

/** Byte offset of a region's chunk. */
export function chunkOffset(layout: LogLayout, region: number): number {
  return chunksAt + region * layout.chunkBytes;
}

export function regionOfBlock(layout: LogLayout, block: number): number {
  return Math.floor(block / layout.blocksPerRegion);
}

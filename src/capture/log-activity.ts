/** An activity slot of a change log: the whole set of hot regions. Encode and decode side by side. Layout: FORMAT.md. */
import { Buffer } from 'node:buffer';
import { invariant } from '../kit/invariant.ts';
import { digest } from '../kernels/hash.ts';
import { checks } from './log-header.ts';
import {
  activityBytes,
  activityHeadBytes,
  activityRegionsMax,
  logIdBytes,
  slotBytes,
  slotCheckedBytes,
  type LogLayout,
} from './log-layout.ts';

const magic = Buffer.from('TMHA', 'ascii');

/** Regions from `first`, `count` of them. */
export interface RegionRange {
  readonly first: number;
  readonly count: number;
}

export const noRegions: RegionRange = { first: 0, count: 0 };

export interface Activity {
  readonly sequence: bigint;
  /** Cold regions whose chunks may be being rewritten. */
  readonly rewriting: RegionRange;
  readonly regions: Uint32Array;
}

/** Both copies, 8 KiB. */
export function encodeActivity(activity: Activity, logId: Uint8Array): Buffer {
  invariant(activity.regions.length <= activityRegionsMax, 'the hot set fits into its slot');
  const slot = Buffer.alloc(activityBytes);
  magic.copy(slot, 0);
  slot.writeUInt32LE(activity.regions.length, 4);
  slot.writeBigUInt64LE(activity.sequence, 8);
  slot.set(logId, 16);
  slot.writeUInt32LE(activity.rewriting.first, 32);
  slot.writeUInt32LE(activity.rewriting.count, 36);
  for (const [index, region] of activity.regions.entries()) slot.writeUInt32LE(region, activityHeadBytes + 4 * index);
  slot.set(digest(slot.subarray(0, slotCheckedBytes)), slotCheckedBytes);
  slot.copyWithin(slotBytes, 0, slotBytes);
  return slot;
}

function decodeCopy(copy: Buffer, logId: Uint8Array, layout: LogLayout): Activity | null {
  if (magic.compare(copy, 0, 4) !== 0 || !checks(copy)) return null;
  if (Buffer.compare(copy.subarray(16, 16 + logIdBytes), logId) !== 0) return null;
  const count = copy.readUInt32LE(4);
  if (count > activityRegionsMax) return null;
  const regions = new Uint32Array(count);
  for (let index = 0; index < count; index += 1) {
    const region = copy.readUInt32LE(activityHeadBytes + 4 * index);
    if (region >= layout.regionCount) return null;
    regions[index] = region;
  }
  return {
    sequence: copy.readBigUInt64LE(8),
    rewriting: { first: copy.readUInt32LE(32), count: copy.readUInt32LE(36) },
    regions,
  };
}

/** The counting one of all copies of the two slots (8 KiB each); null when none is valid. Never throws. */
export function newestActivity(slots: readonly Buffer[], logId: Uint8Array, layout: LogLayout): Activity | null {
  let newest: Activity | null = null;
  for (const slot of slots) {
    for (let at = 0; at < activityBytes; at += slotBytes) {
      const found = decodeCopy(slot.subarray(at, at + slotBytes), logId, layout);
      if (found && (newest === null || found.sequence > newest.sequence)) newest = found;
    }
  }
  return newest;
}

/**
 * Reading a change log that was found at start, and judging it (FORMAT.md, "Opening"). Nothing is written here.
 *
 * Invariant: what is handed to `masks` and `wholeRegion` covers everything that may have changed, or a loss is returned and the
 * caller marks all blocks.
 */
import { Buffer } from 'node:buffer';
import { Problem, systemCode } from '../kit/problem.ts';
import type { File, FileFacts, Files } from '../posix/files.ts';
import type { LogLoss } from './contract.ts';
import { newestActivity, type Activity } from './log-activity.ts';
import { decodeChunk } from './log-chunk.ts';
import { imageRecordOf, newestHeader, type LogHeader } from './log-header.ts';
import { activityAt, activityBytes, chunkOffset, chunksAt, headerAt, slotBytes, type LogLayout } from './log-layout.ts';

export interface LoadOptions {
  readonly files: Files;
  readonly path: string;
  readonly owner: string;
  readonly layout: LogLayout;
  readonly image: FileFacts;
  /** Whether the agent's state knows of an earlier log of this disk. */
  readonly hadLog: boolean;
  /** What a chunk says of its region. `masks` is reused. */
  readonly masks: (region: number, masks: Uint16Array) => void;
  /** All blocks of the region count as changed. */
  readonly wholeRegion: (region: number) => void;
}

export type LoadedLog =
  | {
      readonly kind: 'loss';
      readonly loss: LogLoss;
      /** The last run ended in order, with the image synced. */
      readonly clean: boolean;
    }
  | {
      readonly kind: 'log';
      readonly file: File;
      readonly header: LogHeader;
      readonly activity: Activity;
      /** Regions whose chunk must be written anew. */ readonly rewrite: readonly number[];
    };

/** Bytes of chunks read at a time. */
const windowBytes = 1024 * 1024;

/** The file stays open only in the `log` case; the caller closes it. @throws Problem `wrong-version`, `shrunk`, `bad-geometry`. */
export async function loadLog(options: LoadOptions): Promise<LoadedLog> {
  const file = await openIfThere(options);
  if (!file) return { kind: 'loss', loss: options.hadLog ? 'lost' : 'new', clean: false };
  let keep = false;
  try {
    const loaded = await readLog(file, options);
    keep = loaded.kind === 'log';
    return loaded;
  } finally {
    if (!keep) await file.close();
  }
}

async function openIfThere(options: LoadOptions): Promise<File | null> {
  try {
    return await options.files.open(options.path, 'write');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw error;
  }
}

async function readLog(file: File, options: LoadOptions): Promise<LoadedLog> {
  const head = Buffer.alloc(chunksAt);
  await file.read(head, 0);
  const header = newestHeader(
    headerAt.map((at) => head.subarray(at, at + slotBytes)),
    options.path,
  );
  if (!header) return { kind: 'loss', loss: 'damaged', clean: false };
  const loss = judgeHeader(header, options);
  if (loss) return { kind: 'loss', loss, clean: loss !== 'foreign' && header.state === 'clean' };
  const slots = activityAt.map((at) => head.subarray(at, at + activityBytes));
  const activity = newestActivity(slots, header.logId, options.layout);
  if (!activity) return { kind: 'loss', loss: 'damaged', clean: false };
  const rewrite = await readChunks(file, header, activity, options);
  return rewrite ? { kind: 'log', file, header, activity, rewrite } : { kind: 'loss', loss: 'damaged', clean: false };
}

/** What the header alone tells. */
function judgeHeader(header: LogHeader, { owner, layout, image, path }: LoadOptions): LogLoss | null {
  const { size, blockSize } = layout.geometry;
  if (header.owner !== owner) return 'foreign';
  if (size < header.size) {
    throw new Problem('shrunk', `the image of ${owner} has ${size} bytes, its change log knows ${header.size}`, {
      remedy: 'give the image its size back, or unprotect the disk and protect it anew',
    });
  }
  if (header.blockSize !== blockSize || header.regionBytes !== layout.regionBytes) {
    throw new Problem(
      'bad-geometry',
      `change log ${path} was made for blocks of ${header.blockSize} bytes, not ${blockSize}`,
      {
        remedy: `configure a block size of ${header.blockSize}, or remove the file and protect the disk anew`,
      },
    );
  }
  if (size > header.size) return 'grown';
  const [then, now] = [header.image, imageRecordOf(image)];
  // A block device of which the system says nothing has inode 0, and may be any other.
  if (now.inode === 0n || then.inode !== BigInt.asUintN(64, now.inode)) return 'changed-behind';
  const same = then.version.every((value, index) => value === now.version[index]);
  return header.state === 'clean' && !same ? 'changed-behind' : null;
}

/** Hands out all chunks; null when one is bad that no hot region or rewrite range excuses. */
async function readChunks(
  file: File,
  header: LogHeader,
  activity: Activity,
  options: LoadOptions,
): Promise<number[] | null> {
  const { layout } = options;
  const hot = new Set(activity.regions);
  const { first, count } = activity.rewriting;
  const masks = new Uint16Array(layout.blocksPerRegion);
  const perWindow = Math.min(layout.regionCount, Math.max(1, Math.floor(windowBytes / layout.chunkBytes)));
  const window = Buffer.alloc(perWindow * layout.chunkBytes);
  const rewrite: number[] = [];
  for (let from = 0; from < layout.regionCount; from += perWindow) {
    const regions = Math.min(perWindow, layout.regionCount - from);
    const bytes = window.subarray(0, regions * layout.chunkBytes);
    if ((await file.read(bytes, chunkOffset(layout, from))) !== bytes.byteLength) return null;
    for (let index = 0; index < regions; index += 1) {
      const region = from + index;
      const chunk = bytes.subarray(index * layout.chunkBytes, (index + 1) * layout.chunkBytes);
      const excused = hot.has(region) || (region >= first && region < first + count);
      const good = decodeChunk(layout, header.logId, region, chunk, masks);
      if (good) options.masks(region, masks);
      else if (!excused) return null;
      if (!good || hot.has(region)) {
        options.wholeRegion(region);
        rewrite.push(region);
      }
    }
  }
  return rewrite;
}

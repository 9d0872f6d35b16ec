/**
 * How far the check of everything stored has come, in `scrub.json` beside the machine's segments (FORMAT.md, "Scrub"). A cache: without it the check begins
 * anew, and nothing else is lost.
 */
import * as path from 'node:path';
import { z } from 'zod';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import { safeInteger } from '../wire/control-body.ts';

const time = z.number().min(0);
const position = z.object({ segment: safeInteger, offset: safeInteger });

const progressSchema = z.object({
  format: z.literal(1),
  /** Of the pass under way; null: none is. */
  startedMs: time.nullable(),
  /** Everything points rely on below is checked in this pass. */
  position,
  /** Disk number → its last LAYER below `position`. */
  layers: z.record(z.string(), safeInteger),
  /** The last pass that came to its end: when it began, and where that was. */
  last: z.object({ startedMs: time, end: position }).nullable(),
  /** Quarantine: places that do not check, and when that was found. */
  damaged: z
    .array(z.object({ segment: safeInteger, offset: safeInteger, length: safeInteger, foundMs: time }))
    .max(limits.target.scrubRangesMax),
});

export type ScrubProgress = z.infer<typeof progressSchema>;

export const startOfScrub: ScrubProgress = {
  format: 1,
  startedMs: null,
  position: { segment: 0, offset: 0 },
  layers: {},
  last: null,
  damaged: [],
};

function progressFile(directory: string): string {
  return path.join(directory, 'scrub.json');
}

/** @param directory the machine's. */
export async function readProgress(files: Files, directory: string): Promise<ScrubProgress> {
  const file = progressFile(directory);
  if (!(await files.exists(file))) return startOfScrub;
  try {
    const parsed = progressSchema.safeParse(JSON.parse((await files.readWhole(file)).toString('utf8')));
    return parsed.success ? parsed.data : startOfScrub;
  } catch {
    return startOfScrub;
  }
}

export async function writeProgress(files: Files, directory: string, progress: ScrubProgress): Promise<void> {
  await files.replaceFile(progressFile(directory), Buffer.from(JSON.stringify(progress)));
}

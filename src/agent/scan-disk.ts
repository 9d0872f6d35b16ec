/**
 * The start of a cycle for a disk that is captured by comparison: nobody told what changed since the last one, so every block is hashed and compared
 * with the leaf file, and what differs stays marked. A disk whose leaf file stands at no point is surveyed or sent whole anyway (`resync-disk.ts`).
 */
import type { ReplicaDisk } from './replica-disk.ts';
import { survey, type SurveyContext } from './survey.ts';

/**
 * Does nothing for a disk whose writes are tracked.
 * @throws Problem `not-found`, `bad-image`, `source-replaced` (retryable), `shrunk`: the source can not be read now, or never again; nothing was
 * forgotten. Rejects when the session ends.
 */
export async function lookAnew(
  context: Omit<SurveyContext, 'disk' | 'mayRead' | 'waitUntilItMay'>,
  disk: ReplicaDisk,
): Promise<void> {
  const { capture } = disk;
  if (capture.tracking !== 'scan') return;
  if ((await capture.beginCycle()) === 'grown') await disk.grow();
  capture.markAll();
  // One that grew is opened again first, so that the target's leaves are as many.
  if (disk.reopeningDue || disk.knownPoint === null) return;
  await survey({ ...context, disk, mayRead: () => true, waitUntilItMay: () => Promise.resolve() });
}

/**
 * What comes between OPENED and the cycles of a disk that is compared with its replica: wait for the window → survey → comparison. Behind a survey
 * what differs is compared and sent as it goes on (`resync-stretches.ts`). Without one it is marked, and the next cycle, of kind `resync`, sends it.
 * Points there are stay; the capture goes on marking all the time.
 *
 * Whatever ends it early, the next session goes on where it stood: what was hashed is in the leaf file, what was sent is found by the comparison.
 */
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import { compareDisk } from './compare.ts';
import type { AgentCounters } from './counters.ts';
import type { FlightLog } from './flight-log.ts';
import type { BlockHasher } from './hash-blocks.ts';
import type { ReplicaDisk } from './replica-disk.ts';
import type { ResyncGate } from './resync-gate.ts';
import { ResyncStretches } from './resync-stretches.ts';
import type { BuilderPool, LayerResult } from './sender.ts';
import type { Session } from './session.ts';
import { survey } from './survey.ts';

export interface ResyncContext {
  readonly session: Session;
  readonly hasher: BlockHasher;
  readonly gate: ResyncGate;
  readonly pace: (bytes: number) => Promise<void>;
  readonly clock: Clock;
  readonly counters: AgentCounters;
  readonly flight: FlightLog;
  readonly builders: BuilderPool;
  readonly logger: Logger;
}

const nothing: LayerResult = { records: 0, payloadBytes: 0 };

/** Resolves when the disk's working leaves are the target's and cycles may go on, with what was sent. Rejects when the session ends. */
export async function resyncDisk(context: ResyncContext, index: number, disk: ReplicaDisk): Promise<LayerResult> {
  const { session, gate, logger } = context;
  const reason = disk.resyncReason;
  if (reason === null && !disk.comparisonDue) return nothing;
  await disk.settle();
  // What was never complete at the target is not a resync: its beginning is nobody's to delay.
  const isOpen = (): boolean => disk.kind === 'initial' || gate.opensAtMs() === null;
  const waitUntilOpen = async (): Promise<void> => {
    for (;;) {
      const opensAtMs = gate.opensAtMs();
      if (isOpen() || opensAtMs === null || session.isOver) return;
      disk.enter('waiting', 0, opensAtMs);
      await gate.wait(opensAtMs);
    }
  };
  await waitUntilOpen();
  if (session.isOver) throw await session.ended;
  let ahead = nothing;
  if (disk.surveyDue && disk.capture.currentBytes > limits.agent.lastRoundBytes) {
    logger.info({ disk: disk.name, reason, bytes: disk.capture.currentBytes }, 'the disk is read and hashed');
    const what = { ...context, disk, mayRead: isOpen, waitUntilItMay: waitUntilOpen };
    if (disk.comparisonDue) {
      const stretches = new ResyncStretches({ ...context, disk, index });
      await survey({ ...what, behind: (end) => stretches.hashedTo(end) });
      ahead = await stretches.finish();
    } else await survey(what);
  }
  disk.surveyDue = false;
  if (disk.comparisonDue) await compareDisk(session, index, disk);
  if (reason === null) return ahead;
  const bytes = disk.capture.currentBytes;
  disk.enter('sending', bytes);
  logger.info(
    { disk: disk.name, reason, bytes, sentBytes: ahead.payloadBytes },
    'what differs from the replica is sent',
  );
  return ahead;
}

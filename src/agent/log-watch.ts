/**
 * Says in the agent's log when a disk's change log fails and when there is one again. Writers do not notice and replication goes on; but a crash in
 * between costs a comparison by checksum, so somebody should hear of the state directory now. Looks more often than a failure can pass.
 */
import type { CaptureDisk } from '../capture/contract.ts';
import type { Clock, Timer } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';

interface Watched {
  readonly name: string;
  readonly capture: Pick<CaptureDisk, 'logFailure'>;
}

export const logRemedy = 'make the state directory writable again; until then a crash costs a comparison by checksum';

/** Until it is cancelled. */
export function watchLogs(disks: readonly Watched[], clock: Clock, logger: Logger): Timer {
  const failed = new Set<string>();
  return clock.every(limits.agent.logWatchMs, () => {
    for (const { name, capture } of disks) {
      const reason = capture.logFailure;
      if ((reason !== null) === failed.has(name)) continue;
      if (reason === null) {
        failed.delete(name);
        logger.warn({ disk: name }, 'there is a change log again');
        continue;
      }
      failed.add(name);
      logger.warn({ disk: name, reason, remedy: logRemedy }, 'the change log failed');
    }
  });
}

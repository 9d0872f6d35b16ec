/** Waiting for what another process does. */
import { systemClock } from '../../src/kit/clock.ts';

/** Longer than anything takes that is not broken, also for large disks. */
export const waitMsMax = 30 * 60_000;

/** Looked at every `everyMs`; what costs a measured process something, seldom. @throws Error after `waitMsMax`; what `holds` throws. */
export async function until(what: string, holds: () => boolean | Promise<boolean>, everyMs = 20): Promise<void> {
  const end = performance.now() + waitMsMax;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`${what} did not happen within ${waitMsMax / 60_000} minutes`);
    await systemClock.sleep(everyMs);
  }
}

/** What a target may say when the disks of a session are opened again, told directly; over connections and spools in `drains.test.ts` and `spool-story.test.ts`. */
import { expect, it } from 'vitest';
import { Reopening } from '../../src/process-server/reopening.ts';
import type { SpooledDisk } from '../../src/process-server/spool-format.ts';
import { WaitingPoints } from '../../src/process-server/waiting-points.ts';
import type { Committed } from '../../src/wire/committed.ts';
import { decodeFrame } from '../../src/wire/frame.ts';
import { encodeLeaves } from '../../src/wire/leaves.ts';
import { encodeOpened } from '../../src/wire/opened.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';
import { runOf } from '../layers.ts';
import { pair } from './fakes.ts';
import { blockSize, root } from './spool-world.ts';

const [diskId, epoch, key] = ['00'.repeat(16), 3, 'aa'.repeat(32)];
interface Stand {
  readonly point: number;
  readonly cutTimeMs: number;
}

/** What becomes of it: the message of the refusal, or what is committed. One point waits, cut at 60. */
function outcome(known: Stand, now: Stand, mayLag: boolean): Committed | string | null {
  const points = new WaitingPoints();
  const about = { size: blockSize, root, kind: 'delta', records: 1, payloadBytes: 1 } as const;
  points.batch(0, 9);
  points.add({ cutTimeMs: 60, consistency: 'crash', disks: [{ disk: 0, layers: runOf([9]), ...about }] });
  const facts = { size: blockSize, root };
  const open = { ...facts, disk: 0, name: 'vda', blockSize, compression: 'off', knownPoint: null } as const;
  const disks: SpooledDisk[] = [{ open, diskId, committed: { ...facts, ...known } }];
  let answer: Committed | string | null = 'nothing';
  const reopening = new Reopening({
    ...{ connection: pair(['target', 't1'], ['process-server', 'p1'])[0], disks, epoch, points, mayLag },
    done: (committed) => (answer = committed),
    late: (reason) => (answer = reason.message),
    clock: new SteppedClock(),
  });
  const committed = { ...facts, ...now };
  const keys = { leafKey: key, diskKey: key, keyVersion: 1 };
  const opened = {
    disk: 0,
    diskId,
    epoch,
    nextCounter: 9,
    committed,
    layers: null,
    leaves: 'compare',
    ...keys,
  } as const;
  reopening.take(decodeFrame(Buffer.from(encodeOpened(opened))));
  try {
    reopening.take(decodeFrame(Buffer.from(encodeLeaves(0, { last: true, pairs: [] }))));
  } catch (error) {
    return String(error);
  }
  return answer;
}

it('what was read from a file may lag behind the target, also where a clock fell back meanwhile', () => {
  const known = { point: 4, cutTimeMs: 40 };
  expect(outcome(known, known, true)).toBeNull();
  expect(outcome(known, { point: 5, cutTimeMs: 50 }, true)).toBeNull();
  expect(outcome({ point: 4, cutTimeMs: 90 }, { point: 5, cutTimeMs: 50 }, true)).toBeNull();
  expect(outcome(known, { point: 5, cutTimeMs: 60 }, true)).toMatchObject({ point: 5, cutTimeMs: 60 });
  for (const [now, mayLag] of [
    [{ point: 5, cutTimeMs: 50 }, false],
    [{ point: 3, cutTimeMs: 50 }, true],
    [{ point: 6, cutTimeMs: 70 }, true],
  ] as const)
    expect(outcome(known, now, mayLag)).toContain(`it stands at point ${now.point}, which is none of this session`);
});

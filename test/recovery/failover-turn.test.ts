/** Commands that wait for their turn with a machine, and what became of it meanwhile. */
import * as path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { inTurn } from '../../src/main/failover-turn.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { takeFailoverTurn } from '../../src/recovery/failover-directory.ts';
import { removeMachine } from '../../src/store/machine-removal.ts';
import { MachineLife } from '../store/machine-fixture.ts';
import { silent } from '../target/peer.ts';

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
  await life.point([{ block: 1 }]);
  await life.close();
});
afterEach(() => life.remove());

const data = (): string => path.join(life.directory, 'data');

function command(files: Files, clock: Clock): Promise<unknown> {
  const parts = { files, clock, random: systemRandom, version: '0', loggerOf: () => silent() };
  const place = { data: data(), vault: path.join(life.directory, 'vault.key'), machine: 'm1' };
  return inTurn(parts, place, () => Promise.resolve('its turn'));
}

const gone = { code: 'not-found', message: expect.stringContaining('holds no machine m1') as unknown };

it('a command that waits finds that its machine was deleted', async () => {
  const identity = { pid: process.pid, role: 'deletion of the replica', since: '' };
  const turn = await takeFailoverTurn({ files: posixFiles, clock: systemClock, data: data(), machine: 'm1' }, identity);
  let waited = 0;
  const clock: Clock = {
    ...systemClock,
    sleep: async () => {
      waited += 1;
      await removeMachine(posixFiles, data(), 'm1');
      await turn.release();
    },
  };
  await expect(command(posixFiles, clock)).rejects.toMatchObject(gone);
  expect(waited).toBe(1);
});

it('a command whose machine is deleted before it has its turn finds that, whichever of its operations come first', async () => {
  for (let at = 1; ; at += 1) {
    let operations = 0;
    const other = { hasTurn: false };
    const step = async (): Promise<void> => {
      operations += 1;
      if (operations !== at) return;
      const identity = { pid: process.pid, role: 'deletion of the replica', since: '' };
      const place = { files: posixFiles, clock: { ...systemClock, sleep: () => Promise.reject(new Error('taken')) } };
      const turn = await takeFailoverTurn({ ...place, data: data(), machine: 'm1' }, identity).catch(() => null);
      other.hasTurn = turn === null;
      if (turn) await removeMachine(posixFiles, data(), 'm1');
      await turn?.release();
    };
    const files = new Proxy(posixFiles, {
      get: (target, key) => {
        const operation: unknown = Reflect.get(target, key);
        if (typeof operation !== 'function') return operation;
        return (...args: unknown[]): unknown => step().then(() => Reflect.apply(operation, target, args) as unknown);
      },
    });
    const [outcome] = await Promise.allSettled([command(files, systemClock)]);
    if (other.hasTurn) {
      expect(at).toBeGreaterThan(3);
      return;
    }
    expect(outcome, `operation ${at}`).toMatchObject({ status: 'rejected', reason: gone });
    await life.remove();
    life = await MachineLife.begin();
    await life.point([{ block: 1 }]);
    await life.close();
  }
});

import { describe, expect, it } from 'vitest';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import { ProcessServerChoice } from '../../src/main/process-server-choice.ts';
import type { Closed, Connection } from '../../src/transport/connection.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';

const { avoidSilentMs, avoidUnreachableMs, avoidRefusingMs } = limits.leases;
const lost = (by: Closed['by']): Closed => ({ by, code: 1006, reason: '' });
const problem = (code: string): Problem => new Problem(code, code, { retryable: true });

function world(offered: readonly string[], configured = ['a', 'b']) {
  const clock = new SteppedClock();
  let told = offered;
  const addresses = configured.map((host) => ({ host, port: 1 }));
  const choice = new ProcessServerChoice(addresses, () => told, clock);
  /** Which ones are tried, while `down` names them with how they fail; the connection of the last closes when told. */
  const attempt = async (down: Readonly<Record<string, string>> = {}) => {
    const closed = Promise.withResolvers<Closed>();
    const tried: string[] = [];
    await choice
      .connect(({ host }) => {
        tried.push(host);
        const fails = down[host];
        if (fails !== undefined) return Promise.reject(problem(fails));
        return Promise.resolve({ closed: closed.promise } as Connection);
      })
      .catch(() => undefined);
    const close = async (by: Closed['by']): Promise<void> => {
      closed.resolve(lost(by));
      await clock.turn();
    };
    return { tried: tried.join(' '), close };
  };
  return { clock, choice, attempt, tell: (next: readonly string[]) => (told = next) };
}

describe('an agent', () => {
  it('goes where control says, then where it was configured to go', async () => {
    const { attempt, tell } = world([]);
    expect((await attempt()).tried).toBe('a');
    tell(['b:1', 'c:1']);
    expect((await attempt()).tried).toBe('b');
  });

  it('goes on where control offers what is no address', async () => {
    const { attempt } = world(['x:99999', 'no one:1', 'a@b:1', 'c:1'], ['a']);
    expect((await attempt()).tried).toBe('c');
  });

  it('goes at once to the next where one can not be reached, and no further when all failed', async () => {
    const { attempt, clock } = world(['b:1', 'c:1']);
    expect((await attempt({ b: 'unreachable' })).tried).toBe('b c');
    expect((await attempt({ a: 'unreachable', c: 'unreachable' })).tried).toBe('c a');
    // All failed: the one whose time is over first.
    expect((await attempt({ b: 'unreachable' })).tried).toBe('b');
    await clock.pass(avoidUnreachableMs + 1);
    expect((await attempt()).tried).toBe('b');
  });

  it('comes back late to one that did not answer for long', async () => {
    const { attempt, clock } = world([]);
    expect((await attempt({ a: 'timeout' })).tried).toBe('a');
    await clock.pass(avoidUnreachableMs + 1);
    expect((await attempt()).tried).toBe('b');
    await clock.pass(avoidSilentMs);
    expect((await attempt()).tried).toBe('a');
  });

  it('tries the next when its session broke, was refused, or fell silent', async () => {
    for (const [by, ms] of [
      ['error', avoidUnreachableMs],
      ['deadline', avoidSilentMs],
    ] as const) {
      const { attempt, clock } = world([]);
      await (await attempt()).close(by);
      expect((await attempt()).tried).toBe('b');
      await clock.pass(ms - 10);
      expect((await attempt()).tried).toBe('b');
      await clock.pass(20);
      expect((await attempt()).tried).toBe('a');
    }
    const { attempt, clock, choice } = world([]);
    await attempt();
    choice.ended(problem('not-owner'));
    expect((await attempt()).tried).toBe('b');
    await clock.pass(avoidRefusingMs + 1);
    expect((await attempt()).tried).toBe('a');
  });

  it('stays where its machine is drained, and where it closed the session itself', async () => {
    const { attempt, choice } = world([]);
    for (const code of ['draining', 'superseded', 'closed', 'root-mismatch']) {
      const { tried, close } = await attempt();
      expect(tried).toBe('a');
      choice.ended(problem(code));
      await close('us');
    }
  });
});

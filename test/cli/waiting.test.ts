/** Signals: the first ends gracefully within a deadline, the second at once. */
import { describe, expect, it } from 'vitest';
import { exitCodes } from '../../src/fatal.ts';
import { type Clock, systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { type CommandLine, commandLine, fakeRunning } from './fake-roles.ts';

/** Lets everything that is ready run. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn += 1) await systemClock.turn();
}

async function signalOnce(line: CommandLine): Promise<void> {
  await settle();
  expect(line.signal()).toBe(true);
}

const forever = new Promise<never>(() => undefined);

/** A clock whose deadlines pass at once. */
const impatient: Clock = { ...systemClock, sleep: () => Promise.resolve() };

describe('a role', () => {
  it('is closed by the first signal and ends with 0', async () => {
    const running = fakeRunning();
    const line = commandLine({ roles: { startTarget: async () => running } });
    const code = line.run('target');
    await signalOnce(line);
    expect(await code).toBe(0);
    expect(running.closes()).toBe(1);
    expect(line.signal()).toBe(false);
  });

  it('that does not close is left by the second signal', async () => {
    const running = fakeRunning(() => forever);
    const line = commandLine({ roles: { startTarget: async () => running } });
    const code = line.run('target');
    await signalOnce(line);
    await signalOnce(line);
    expect(await code).toBe(exitCodes.interrupted.code);
  });

  it('that does not close in time is left by the deadline', async () => {
    const running = fakeRunning(() => forever);
    const line = commandLine({ clock: impatient, roles: { startTarget: async () => running } });
    const code = line.run('target');
    await signalOnce(line);
    expect(await code).toBe(exitCodes.interrupted.code);
  });

  it('that can not go on is closed and its problem told', async () => {
    const running = fakeRunning();
    const line = commandLine({ roles: { startTarget: async () => running } });
    const code = line.run('target');
    await settle();
    running.fail(new Problem('points-log-sync-failed', 'points.log could not be made durable'));
    expect(await code).toBe(exitCodes['points-log-sync-failed'].code);
    expect(running.closes()).toBe(1);
  });

  it('that is signalled while it starts is closed as soon as it has started', async () => {
    const started = Promise.withResolvers<ReturnType<typeof fakeRunning>>();
    const running = fakeRunning();
    const line = commandLine({ roles: { startTarget: () => started.promise } });
    const code = line.run('target');
    await signalOnce(line);
    started.resolve(running);
    expect(await code).toBe(0);
    expect(running.closes()).toBe(1);
  });

  it('that never starts is left by the second signal', async () => {
    const line = commandLine({ roles: { startTarget: () => forever } });
    const code = line.run('target');
    await signalOnce(line);
    await signalOnce(line);
    expect(await code).toBe(exitCodes.interrupted.code);
  });
});

describe('a command', () => {
  it('is aborted by the first signal and waits for its clean-up', async () => {
    let cleaned = false;
    const exportPoint = async (_request: unknown, _progress: unknown, signal: AbortSignal): Promise<never> => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      await settle();
      cleaned = true;
      throw new Error('whatever it rejects with');
    };
    const line = commandLine({ roles: { exportPoint } });
    const code = line.run('export', 'web1', '--to', 'x');
    await signalOnce(line);
    expect(await code).toBe(exitCodes.interrupted.code);
    expect(cleaned).toBe(true);
    expect(line.stderr()).toContain('ended by a signal');
  });

  it('says what it knows of how to go on', async () => {
    const exportPoint = async (_request: unknown, _progress: unknown, signal: AbortSignal): Promise<never> => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      throw new Problem('interrupted', 'half of it', { remedy: 'run it again to go on' });
    };
    const line = commandLine({ roles: { exportPoint } });
    const code = line.run('export', 'web1', '--to', 'x');
    await signalOnce(line);
    expect(await code).toBe(exitCodes.interrupted.code);
    expect(line.stderr()).toContain('run it again to go on');
  });

  it('does not wait after the second', async () => {
    const line = commandLine({ roles: { exportPoint: () => forever } });
    const code = line.run('export', 'web1', '--to', 'x');
    await signalOnce(line);
    await signalOnce(line);
    expect(await code).toBe(exitCodes.interrupted.code);
  });
});

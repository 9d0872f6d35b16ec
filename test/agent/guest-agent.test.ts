/** A cut with the guest frozen: whatever the guest agent does, the cut is made once and the guest is thawed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { AppAttempt, AppConsistency } from '../../src/agent/app-consistency.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { FakeGuestAgent, type Fate } from './fake-guest-agent.ts';
import { QuietSurroundings, report, until } from './quiet-surroundings.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<typeof import('../../src/limits.ts')>();
  const agent = { ...real.limits.agent, settleBaseMs: 5, settleMaxMs: 20, settleOnStopMs: 200 };
  return { ...real, limits: { ...real.limits, agent } };
});

let around: QuietSurroundings;
let guest: FakeGuestAgent;
beforeEach(async () => {
  around = new QuietSurroundings();
  guest = await FakeGuestAgent.listening(around.socket);
});
afterEach(async () => {
  await around.remove();
  guest.close();
});

/** How many file systems were frozen at the cut. */
async function cut(app: AppConsistency): Promise<{ attempt: AppAttempt; frozen: number[] }> {
  const frozen: number[] = [];
  const attempt = app.attempt(() => {
    frozen.push(guest.frozen);
    return Promise.resolve(report);
  });
  expect(await attempt.cutAll([], 1)).toBe(report);
  return { attempt, frozen };
}

/** Nothing is frozen, as often thawed as frozen, nothing owed, nothing left on disk. */
async function settled(app: AppConsistency): Promise<void> {
  await until(() => app.owed === null && !existsSync(around.marker));
  expect([guest.frozen, guest.freezes - guest.thaws]).toEqual([0, 0]);
}

/** The next `times` requests for `command` meet `fate`. */
function nextMeet(command: string, fate: Fate, times = 1): void {
  let left = times;
  guest.meets = (asked) => {
    if (asked !== command || left === 0) return 'done';
    left -= 1;
    return fate;
  };
}

test('is made while the guest is frozen, and the evidence says what was frozen and for how long', async () => {
  const app = await around.open({ socket: around.socket });
  for (let round = 1; round <= 3; round += 1) {
    const { attempt, frozen } = await cut(app);
    expect(frozen).toEqual([3]);
    expect(attempt.failure).toBeNull();
    expect(attempt.evidence).toMatch(/^guest agent froze 3 file systems, thawed 3 after \d+ ms$/);
    await settled(app);
    expect(guest.freezes).toBe(round);
  }
  expect(guest.executed.slice(0, 5)).toEqual([
    'guest-sync-delimited',
    'guest-fsfreeze-status',
    'guest-fsfreeze-freeze',
    'guest-fsfreeze-thaw',
    'guest-fsfreeze-status',
  ]);
});

test.each([
  ['half an answer', '{"return": {"a'],
  ['whole answers of somebody else', '{"return": "frozen"}\n{"error": {"class": "GenericError", "desc": "x"}}\n'],
  ['the answer to an older sync', '\xff{"return": 4711}\n'],
  ['rubbish without an end', 'x'.repeat(200_000)],
])('does not mistake %s on the line for its own', async (_, stale) => {
  guest.stale = stale;
  const app = await around.open({ socket: around.socket });
  const { attempt } = await cut(app);
  expect(attempt.evidence).toContain('froze 3');
  await settled(app);
});

test('is made of a running guest when the guest refuses, and nothing is owed', async () => {
  nextMeet('guest-fsfreeze-freeze', 'refused');
  const app = await around.open({ socket: around.socket });
  const { attempt, frozen } = await cut(app);
  expect(frozen).toEqual([0]);
  expect([attempt.evidence, attempt.failure]).toEqual([
    null,
    'guest agent: guest-fsfreeze-freeze: guest-fsfreeze-freeze failed',
  ]);
  await settled(app);
  expect((await cut(app)).attempt.evidence).toContain('froze 3');
  await settled(app);
});

test('does not wait longer than the deadline for a freeze, and thaws the guest that froze later', async () => {
  const slow = Promise.withResolvers<Fate>();
  guest.meets = (command) => (command === 'guest-fsfreeze-freeze' ? slow.promise : 'done');
  const app = await around.open({ socket: around.socket, timeoutMs: 60 });
  const { attempt, frozen } = await cut(app);
  expect(frozen).toEqual([0]);
  expect(attempt.failure).toMatch(/no answer on .*ga\.sock within 0\.06 s/);
  await until(() => app.owed !== null);
  // Meanwhile nothing new is frozen.
  expect((await cut(app)).attempt.failure).toContain('not undone yet: guest agent: no answer');
  slow.resolve('done');
  await until(() => guest.freezes === 1);
  guest.meets = () => 'done';
  await settled(app);
  expect((await cut(app)).attempt.evidence).toContain('froze 3');
});

test('reaches a guest whose freeze it can not wait for even if it is gone by then', async () => {
  const slow = Promise.withResolvers<Fate>();
  guest.meets = (command) => (command === 'guest-fsfreeze-freeze' ? slow.promise : 'done');
  const app = await around.open({ socket: around.socket, timeoutMs: 60 });
  await cut(app);
  await app.close();
  expect(existsSync(around.marker)).toBe(true);
  slow.resolve('done');
  await until(() => guest.thaws === 1);
  expect(guest.frozen).toBe(0);
});

test.each([['lost'], ['killed']] as const)('thaws when the connection breaks at the freeze (%s)', async (fate) => {
  nextMeet('guest-fsfreeze-freeze', fate);
  const app = await around.open({ socket: around.socket });
  const { attempt } = await cut(app);
  expect(attempt.failure).toContain('the connection was closed');
  await settled(app);
  expect(guest.freezes).toBe(fate === 'lost' ? 1 : 0);
});

test('thaws over a new connection when the old one broke during the cut', async () => {
  const app = await around.open({ socket: around.socket });
  const attempt = app.attempt(async () => {
    guest.disconnect();
    await systemClock.sleep(20);
    return report;
  });
  await attempt.cutAll([], 1);
  expect(attempt.evidence).toContain('thawed 3');
  await settled(app);
});

test.each([['refused'], ['lost'], ['killed'], [{ answers: 'what?\n' }], [{ answers: '{"return": "' }]] as const)(
  'thaws again until it is answered (%j), and claims nothing',
  async (fate) => {
    // A thaw that failed is followed by a status that says so.
    nextMeet('guest-fsfreeze-thaw', fate, 3);
    const app = await around.open({ socket: around.socket, timeoutMs: 60 });
    const { attempt, frozen } = await cut(app);
    expect(frozen).toEqual([3]);
    expect(attempt.failure).toContain('no answer to the thaw');
    await settled(app);
    expect(around.said.filter((line) => line.startsWith('the machine may be frozen still'))).toHaveLength(1);
  },
);

test('claims nothing when somebody thawed the guest before it did', async () => {
  const app = await around.open({ socket: around.socket });
  const attempt = app.attempt(() => {
    guest.frozen = 1;
    return Promise.resolve(report);
  });
  await attempt.cutAll([], 1);
  expect(attempt.failure).toBe('1 of 3 file systems were thawed: somebody thawed the others earlier');
  await settled(app);
});

test('leaves a guest alone that somebody else has frozen', async () => {
  guest.frozen = 3;
  const app = await around.open({ socket: around.socket });
  const { attempt } = await cut(app);
  expect(attempt.failure).toContain('frozen by somebody else');
  await until(() => !existsSync(around.marker));
  expect([guest.frozen, guest.thaws]).toEqual([3, 0]);
});

test('claims nothing of a guest without file systems to freeze', async () => {
  guest.fileSystems = 0;
  const app = await around.open({ socket: around.socket });
  expect((await cut(app)).attempt.failure).toBe('guest agent: froze 0 file systems');
  await settled(app);
});

test.each([
  ['is given up', null],
  ['fails', new Error('closed')],
] as const)('thaws when the cut %s', async (_, end) => {
  const app = await around.open({ socket: around.socket });
  const attempt = app.attempt(() => (end === null ? Promise.resolve(null) : Promise.reject(end)));
  const cutting = attempt.cutAll([], 1);
  if (end === null) expect(await cutting).toBeNull();
  else await expect(cutting).rejects.toBe(end);
  await settled(app);
  expect(guest.freezes).toBe(1);
});

test('is made without a guest agent behind the socket, or without the socket', async () => {
  guest.close();
  const app = await around.open({ socket: around.socket });
  expect((await cut(app)).attempt.failure).toContain('ENOENT');
  await settled(app);
});

test('freezes nothing when it can not write down that it does', async () => {
  const app = await around.open({ socket: around.socket }, path.join(around.directory, 'missing'));
  expect((await cut(app)).attempt.failure).toMatch(/frozen\.json can not be written, so nothing was frozen/);
  expect(guest.freezes).toBe(0);
});

test('an agent that stops ends a freeze at once, thaws, and leaves nothing', async () => {
  const app = await around.open({ socket: around.socket, timeoutMs: 20_000 });
  const stopped = systemClock.monotonicMs();
  // The freeze takes effect, its answer does not come; the stop comes meanwhile.
  guest.meets = (command) => (command === 'guest-fsfreeze-freeze' ? { answers: '' } : 'done');
  guest.frozen = 0;
  const cutting = cut(app);
  await until(() => guest.executed.includes('guest-fsfreeze-status'));
  await systemClock.sleep(10);
  app.stop();
  expect((await cutting).attempt.failure).toContain('the agent is stopping');
  await app.close();
  expect(systemClock.monotonicMs() - stopped).toBeLessThan(1000);
  await settled(app);
  expect((await cut(app)).attempt.failure).toBe('the agent is stopping');
});

test('an agent that stops thaws a guest that does not answer only for a while, and the next one goes on', async () => {
  const app = await around.open({ socket: around.socket, timeoutMs: 100 });
  guest.meets = (command) => (command === 'guest-fsfreeze-thaw' ? { answers: '' } : 'done');
  await cut(app);
  await app.close();
  expect(around.said.at(-1)).toContain('virsh domfsthaw');
  expect([guest.frozen, existsSync(around.marker)]).toEqual([3, true]);
  guest.meets = () => 'done';
  await settled(await around.open({ socket: around.socket }));
  expect(guest.thaws).toBe(1);
});

test('a start waits for no guest, and thaws it when it comes up', async () => {
  guest.close();
  writeFileSync(around.marker, '{}');
  const app = await around.open({ socket: around.socket });
  await until(() => app.owed?.includes('ENOENT') === true);
  guest = await FakeGuestAgent.listening(around.socket);
  guest.frozen = 3;
  guest.freezes = 1;
  await settled(app);
});

/** Freezes the guest for a cut that never ends. */
const freezerCode = `
  const [root, directory, socket] = process.argv.slice(1);
  const load = (name) => import(root + 'src/' + name + '.ts');
  // Nothing else keeps this process: its sockets and timers do not.
  setTimeout(() => undefined, 60_000);
  const { AppConsistency } = await load('agent/app-consistency');
  const { GuestAgent } = await load('agent/guest-agent');
  const { systemClock: clock } = await load('kit/clock');
  const { systemRandom: random } = await load('kit/random');
  const { createLogger } = await load('observe/logger');
  const { posixFiles: files } = await load('posix/files');
  const guestAgent = new GuestAgent({ socket, timeoutMs: 5000, clock, random });
  const logger = createLogger({ level: 'silent', clock });
  const app = await AppConsistency.open({ pre: null, post: null, guestAgent, directory, files, clock, random, logger });
  const attempt = app.attempt(() => {
    process.stdout.write('frozen');
    return new Promise(() => undefined);
  });
  await attempt.cutAll([], 1);
`;

test('an agent that is killed with the guest frozen leaves it to its next start', async () => {
  const root = new URL('../../', import.meta.url).href;
  const args = ['--input-type=module', '-e', freezerCode, root, around.directory, around.socket];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  expect([said.toString(), guest.frozen]).toEqual(['frozen', 3]);
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(guest.frozen).toBe(3);
  await settled(await around.open({ socket: around.socket }));
  expect(guest.thaws).toBe(1);
});

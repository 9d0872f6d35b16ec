/** Hooks around a cut: what they are told, what they can claim, and that none outlives its deadline. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { AppAttempt, AppConsistency } from '../../src/agent/app-consistency.ts';
import { Hook } from '../../src/agent/hooks.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { FakeGuestAgent } from './fake-guest-agent.ts';
import { QuietSurroundings, report, until } from './quiet-surroundings.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<typeof import('../../src/limits.ts')>();
  const agent = { ...real.limits.agent, settleBaseMs: 5, settleMaxMs: 20, settleOnStopMs: 300, hookGraceMs: 100 };
  return { ...real, limits: { ...real.limits, agent } };
});

let around: QuietSurroundings;
beforeEach(() => {
  around = new QuietSurroundings();
});
afterEach(async () => {
  await around.remove();
});

const file = (name: string): string => path.join(around.directory, name);
const text = (name: string): string => (existsSync(file(name)) ? readFileSync(file(name), 'utf8') : '');
/** Shell words that add a line to `order`. */
const notes = (line: string): string => `echo ${line} >> ${file('order')}`;

async function cut(app: AppConsistency): Promise<AppAttempt> {
  const attempt = app.attempt(() => {
    writeFileSync(file('order'), 'cut\n', { flag: 'a' });
    return Promise.resolve(report);
  });
  expect(await attempt.cutAll([], 1)).toBe(report);
  return attempt;
}
const settled = (app: AppConsistency): Promise<void> => until(() => app.owed === null && !existsSync(around.marker));

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    // A child nobody waited for is dead too.
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
}

test('run around freeze, cut and thaw, in a clean environment', async () => {
  const guest = await FakeGuestAgent.listening(around.socket);
  guest.meets = (command) => {
    if (/(?:freeze|thaw)$/.test(command)) writeFileSync(file('order'), `${command}\n`, { flag: 'a' });
    return 'done';
  };
  try {
    const pre = `${notes('pre')}; env > ${file('pre.env')}; pwd >> ${file('pre.env')}; echo $# >> ${file('pre.env')}`;
    const app = await around.open({ pre, post: `${notes('post')}; env > ${file('post.env')}`, socket: around.socket });
    const { evidence, failure } = await cut(app);
    await settled(app);
    expect(failure).toBeNull();
    expect(evidence).toMatch(
      /^pre hook .*\/pre exited 0 in \d+ ms, guest agent froze 3 file systems, thawed 3 after \d+ ms$/,
    );
    expect(text('order').split('\n')).toEqual([
      'pre',
      'guest-fsfreeze-freeze',
      'cut',
      'guest-fsfreeze-thaw',
      'post',
      '',
    ]);
    const seen = text('pre.env').split('\n').sort();
    expect(seen.filter((line) => !/^(?:PWD|SHLVL|_|OLDPWD)=/.test(line))).toEqual([
      '',
      '/',
      '0',
      'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      'TIDEMARK_HOOK=pre',
      'TIDEMARK_MACHINE=m1',
      'TIDEMARK_POINT_KIND=app',
    ]);
    expect(text('post.env')).toContain('TIDEMARK_HOOK=post');
  } finally {
    guest.close();
  }
});

test('are evidence alone, without a guest agent', async () => {
  const app = await around.open({ pre: 'exit 0' });
  expect((await cut(app)).evidence).toMatch(/^pre hook .*\/pre exited 0 in \d+ ms$/);
  await settled(app);
});

test('without anything that makes the machine quiet a point claims nothing', async () => {
  const app = await around.open({ post: notes('post') });
  expect((await cut(app)).failure).toBe('neither agent.preHook nor agent.guestAgentSocket is configured');
  expect(text('order')).toBe('cut\n');
});

test('a pre hook that fails is named with what it said; the guest is not frozen, the post hook runs', async () => {
  const guest = await FakeGuestAgent.listening(around.socket);
  try {
    const pre = 'echo "database is\n down" >&2; exit 3';
    const app = await around.open({ pre, post: notes('post'), socket: around.socket });
    expect((await cut(app)).failure).toMatch(/^pre hook .*\/pre exited 3 in \d+ ms: database is down$/);
    await settled(app);
    expect([text('order').split('\n').sort(), guest.executed]).toEqual([['', 'cut', 'post'], []]);
  } finally {
    guest.close();
  }
});

test('a pre hook that hangs is killed with all it started, though they refuse to go, and the cut is made', async () => {
  const stubborn = (name: string): string => `trap "" TERM; echo $$ > ${file(name)}; while :; do sleep 0.05; done`;
  const inner = `sh -c '${stubborn('grandchild')}' &\n${stubborn('parent')}`;
  const app = await around.open({ pre: inner, post: notes('post'), timeoutMs: 300 });
  const fromMs = clock.monotonicMs();
  const { failure } = await cut(app);
  expect(clock.monotonicMs() - fromMs).toBeLessThan(2000);
  expect(failure).toMatch(
    /^pre hook .*\/pre did not end within 0\.3 s and was killed with all it started \(.*agent\.hookTimeoutSeconds\)/,
  );
  const pids = ['parent', 'grandchild'].map((name) => Number(text(name)));
  expect(pids.every((pid) => pid > 1)).toBe(true);
  await until(() => !pids.some(isAlive));
  await settled(app);
  expect(text('order')).toContain('post');
});

test('a pre hook that goes when it is asked to is not waited for any longer', async () => {
  const app = await around.open({ pre: 'sleep 20', timeoutMs: 50 });
  const fromMs = clock.monotonicMs();
  expect((await cut(app)).failure).toContain('did not end within 0.05 s');
  expect(clock.monotonicMs() - fromMs).toBeLessThan(1000);
});

test('a post hook runs again until it exits with 0; meanwhile the reason stands, and nothing new begins', async () => {
  writeFileSync(file('broken'), '');
  const post = `test ! -e ${file('broken')} || { echo still broken >&2; exit 7; }`;
  const app = await around.open({ pre: notes('pre'), post });
  expect((await cut(app)).evidence).toContain('exited 0');
  await until(() => app.owed !== null);
  expect(app.owed).toMatch(/^post hook .*\/post exited 7 in \d+ ms: still broken$/);
  const next = await cut(app);
  expect([next.evidence, next.failure?.startsWith('what was frozen before is not undone yet: post hook')]).toEqual([
    null,
    true,
  ]);
  expect(text('order')).toBe('pre\ncut\ncut\n');
  rmSync(file('broken'));
  await settled(app);
});

test('a hook that ends itself by a signal, or can not be started, is named so', async () => {
  const killed = await around.open({ pre: 'kill -9 $$' });
  expect((await cut(killed)).failure).toMatch(/was ended by SIGKILL after \d+ ms$/);
  await settled(killed);
  const gone = await around.open({ pre: 'exit 0' });
  writeFileSync(file('pre'), '#!/nowhere/sh\n', { mode: 0o755 });
  expect((await cut(gone)).failure).toMatch(/could not be started: spawn .* ENOENT$/);
});

test('an agent that stops ends its hook at once and runs the post hook', async () => {
  const app = await around.open({ pre: `touch ${file('running')}; sleep 20`, post: notes('post'), timeoutMs: 20_000 });
  const fromMs = clock.monotonicMs();
  const cutting = cut(app);
  await until(() => existsSync(file('running')));
  app.stop();
  expect((await cutting).failure).toContain('because the agent is stopping');
  await app.close();
  expect(clock.monotonicMs() - fromMs).toBeLessThan(2000);
  expect([text('order').includes('post'), existsSync(around.marker)]).toEqual([true, false]);
});

test('an agent that stops does not wait long for a post hook that hangs', async () => {
  const app = await around.open({ pre: 'exit 0', post: 'sleep 20', timeoutMs: 20_000 });
  await cut(app);
  const fromMs = clock.monotonicMs();
  await app.close();
  expect(clock.monotonicMs() - fromMs).toBeLessThan(2000);
  expect(existsSync(around.marker)).toBe(true);
});

test.each([
  ['does not exist', () => file('nothing')],
  ['is not a file', () => around.directory],
  ['is not executable', () => around.script('plain', 'exit 0', 0o644)],
])('a hook that %s is refused at the start, with its key', async (why, where) => {
  const options = { machine: 'm1', timeoutMs: 1000, clock };
  for (const [which, key] of [
    ['pre', 'agent.preHook'],
    ['post', 'agent.postHook'],
  ] as const) {
    await expect(Hook.of({ ...options, which, path: where() })).rejects.toMatchObject({
      code: 'bad-config',
      message: `${key}: ${where()} ${why}`,
    });
  }
});

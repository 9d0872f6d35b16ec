import { describe, expect, it } from 'vitest';
import type { Roles } from '../../src/cli/roles.ts';
import type { MachineStatus, StatusReport } from '../../src/cli/status-report.ts';
import { exitCodes } from '../../src/fatal.ts';
import { type Clock, systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { commandLine, type Setting } from './fake-roles.ts';
import { healthy, machine } from './status-fixture.ts';

/** Control characters as one can read them. */
const seen = (text: string): string => text.replaceAll('\u001b', '<ESC>').replaceAll('\u0007', '<BEL>');
const atMs = Date.UTC(2026, 0, 2, 3, 12, 5);
const at = (agoMs: number): number => atMs - agoMs;
const behind: Partial<MachineStatus> = {
  health: 'critical',
  rpoActualSeconds: 75,
  newestCommittedMs: at(75_000),
  newestProvenMs: at(26 * 3600_000),
  lagBytes: 900 * 1024 * 1024,
  stage: { name: 'link', why: 'of the last 10 s the process server waited 9.1 s for something to do' },
  forecast: { breachInSeconds: 840, caughtUpInSeconds: null, needsBytesPerSecond: 4.75e6, hasBytesPerSecond: 2.5e6 },
  next: [{ what: 'cut', atMs: atMs + 5000, disk: null }],
  reasons: [{ severity: 'critical', code: 'rpo-breached', message: 'it is too old', remedy: 'give it more' }],
};
const of = (more: Partial<MachineStatus>, disk: object = {}): StatusReport => ({
  ...healthy,
  atMs,
  machines: [{ ...machine, ...more, disks: machine.disks.map((one) => ({ ...one, ...disk })) }],
});

async function printed(report: StatusReport, setting: Setting = {}, ...words: string[]): Promise<string> {
  const line = commandLine({ roles: { status: async () => report }, ...setting });
  expect(await line.run('status', ...words)).toBe(0);
  return line.stdout();
}

describe('status', () => {
  it('answers no when health is critical, and shows why', async () => {
    expect(await printed(healthy)).toContain('unknown');
    const reasons = [{ severity: 'critical' as const, code: 'damaged', message: 'blocks are damaged', remedy: 'wait' }];
    const ill = commandLine({ roles: { status: async () => ({ ...healthy, health: 'critical', reasons }) } });
    expect(await ill.run('status')).toBe(exitCodes['check-failed'].code);
    expect(ill.stdout()).toContain('critical site: blocks are damaged; wait');
    expect(await ill.run('status', '--json')).toBe(exitCodes['check-failed'].code);
  });

  it('is of the machine that is named, or of all; with --json it is the report', async () => {
    const asked: unknown[] = [];
    const status: Roles['status'] = async (request) => {
      asked.push(request.machine);
      return healthy;
    };
    const line = commandLine({ roles: { status } });
    expect([await line.run('status', 'web1', '--json'), await line.run('status')]).toEqual([0, 0]);
    expect(asked).toEqual(['web1', undefined]);
    expect(JSON.parse(line.stdout().split('\n')[0] ?? '')).toEqual(healthy);
  });

  it('is a table, then what binds and what to expect, then the reasons with what to do', async () => {
    expect(await printed(of(behind))).toBe(
      `ok at 2026-01-02T03:12:05.000Z
HEALTH    MACHINE  TARGET  EVERY  ACTUAL   BEHIND   STAGE  NEWEST     PROVEN                NEXT           PHASE
critical  web1     60 s    5 s    75 s     900 MiB  link   03:10:50Z  2026-01-01T01:12:05Z  cut 03:12:10Z
ok          vda    60 s    5 s    unknown  unknown  -      -          -                                    unknown
web1: link binds: of the last 10 s the process server waited 9.1 s for something to do
web1: the RPO target is breached in 14 min at this churn and drain rate; needs 38 Mb/s, has 20 Mb/s
critical web1: it is too old; give it more
`,
    );
  });

  it('says what is to be expected once the target is breached, and nothing where nothing is', async () => {
    const forecast = { breachInSeconds: 0, caughtUpInSeconds: 30, needsBytesPerSecond: 1e6, hasBytesPerSecond: 5e6 };
    expect(await printed(of({ forecast }))).toContain(
      'web1: the RPO target is breached; caught up in 30 s at this churn and drain rate; needs 8 Mb/s, has 40 Mb/s\n',
    );
    expect(await printed(of({ forecast: { ...forecast, caughtUpInSeconds: null } }))).toContain('never caught up');
    expect(await printed(of({ forecast: { ...forecast, breachInSeconds: null } }))).not.toContain('Mb/s');
  });

  it('shows resyncs, gaps, spools, and what the points can claim', async () => {
    const bytes = { doneBytes: 1, totalBytes: 2, opensAtMs: null, timeZone: null };
    const resync = { reason: 'lost', phase: 'hashing', percent: 50, ...bytes };
    expect(await printed(of({ consistency: 'none' }))).toContain('web1: its points claim nothing');
    expect(await printed(of({}))).not.toContain('claim');
    expect(await printed(of({}, { resync }))).toMatch(/vda .* resync 50 %$/m);
    expect(await printed(of({}, { resync: { ...resync, phase: 'waiting' } }))).toMatch(/vda .* resync due$/m);
    expect(await printed(of({ booted: { point: 7, atMs: 0, seconds: 3.5 } }))).toMatch(
      /^web1: point 7 was started at \S+ and answered after 3.5 s$/m,
    );
    expect(await printed(of({ gaps: [{ points: 2, reason: 'drain' }] }))).toContain(
      'web1: 2 points not made since the agent started, though due (drain)\n',
    );
    const spools = [{ processServer: 'ps1', level: 'warning-30', usedBytes: 7 * 1024, limitBytes: 10 * 1024 }];
    expect(await printed(of({ gaps: [{ points: 1, reason: 'drain' }] }))).toContain('web1: 1 point not made');
    const spooled = { bytes: 7 * 1024, points: 3, oldestMs: null };
    expect(await printed({ ...of({ spooled }), spools })).toContain(
      'web1: 7 KiB and 3 points wait in the spool of its process server\nspool of ps1: 7 KiB of 10 KiB used (warning-30)\n',
    );
  });

  it('fits a narrow terminal, the most urgent columns last to go', async () => {
    for (const columns of [100, 60, 40]) {
      const text = await printed(of(behind), { terminal: true, colour: false, size: { columns, rows: 24 } });
      expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThanOrEqual(columns);
    }
    const at60 = await printed(of(behind), { terminal: true, colour: false, size: { columns: 60, rows: 24 } });
    expect(at60).toMatch(/^HEALTH +MACHINE +TARGET +ACTUAL +BEHIND +STAGE/m);
    expect(at60).not.toContain('NEXT');
    const at40 = await printed(of(behind), { terminal: true, colour: false, size: { columns: 40, rows: 24 } });
    expect(at40).toMatch(/^HEALTH +MACHINE +ACTUAL +STAGE/m);
  });

  it('takes a terminal that does not say how large it is, as serial consoles do, for one of the usual size', async () => {
    const setting = { terminal: true, colour: false, size: { columns: 0, rows: 0 } };
    const usual = { ...setting, size: { columns: 80, rows: 24 } };
    expect(await printed(of(behind), setting)).toBe(await printed(of(behind), usual));
  });

  it('is coloured on a terminal only, and not with NO_COLOR', async () => {
    expect(await printed(of(behind), { terminal: true })).toContain('\u001b[31mcritical\u001b[0m');
    for (const setting of [{}, { terminal: true, colour: false }])
      expect(await printed(of(behind), setting)).not.toContain('\u001b');
  });

  it('sends no control character of a role to the terminal', async () => {
    const stage = { name: 'link', why: 'a\u001b[2Jb' };
    expect(seen(await printed(of({ stage, name: 'w\u0007' })))).not.toMatch(/<ESC>|<BEL>/);
  });
});

describe('status --watch', () => {
  /** Sleeps at once, and counts; the last sleep is for ever. */
  function impatient(sleeps: number, last: () => void): Clock & { slept: number[] } {
    const slept: number[] = [];
    const sleep: Clock['sleep'] = (ms, signal) => {
      slept.push(ms);
      if (slept.length < sleeps) return Promise.resolve();
      const forEver = new Promise<void>((_resolve, reject) => {
        signal?.addEventListener('abort', () => reject(new Error('aborted')));
      });
      last();
      return forEver;
    };
    return { ...systemClock, sleep, slept };
  }

  async function watched(answers: readonly (StatusReport | Problem)[], setting: Setting = {}, ...words: string[]) {
    const left = [...answers];
    const clock = impatient(answers.length, () => line.signal());
    const status = async (): Promise<StatusReport> => {
      const answer = left.shift() ?? healthy;
      if (answer instanceof Problem) throw answer;
      return answer;
    };
    const line = commandLine({ roles: { status }, terminal: true, colour: false, clock, ...setting });
    const code = await line.run('status', '--watch', ...words);
    return { code, slept: clock.slept, text: line.stdout(), frames: line.stdout().split('\u001b[H').slice(1), line };
  }

  it('draws in place until a signal comes, gives the cursor back, and ends well', async () => {
    const { code, slept, text, frames, line } = await watched([healthy, of(behind), healthy], {}, '--every', '7');
    expect(code).toBe(0);
    expect(slept).toEqual([7000, 7000, 7000]);
    expect(frames).toHaveLength(3);
    expect(frames[1]).toContain('link binds');
    expect(frames[2]).not.toContain('link binds');
    expect(seen(text)).toMatch(/^<ESC>\[\?25l<ESC>\[2J/);
    expect(text.endsWith('\u001b[?25h')).toBe(true);
    expect(line.signal()).toBe(false);
  });

  it('clears what stood there before: each line to its end, and what is below', async () => {
    const { frames } = await watched([of(behind), healthy]);
    for (const frame of frames) expect(seen(frame)).toMatch(/^(?:[^\r\n]*<ESC>\[K\r\n)+<ESC>\[J/);
  });

  it('goes on when control does not answer, and shows what was known last', async () => {
    const away = new Problem('unreachable', 'control does not answer', { remedy: 'start it' });
    const { code, frames } = await watched([away, of(behind), away, healthy]);
    expect(code).toBe(0);
    expect(frames[0]).toContain('critical no answer: control does not answer; start it');
    expect(frames[0]).not.toContain('known last');
    expect(frames[2]).toMatch(/no answer[\s\S]*What was known last:[\s\S]*link binds/);
    expect(frames[3]).not.toContain('no answer');
  });

  it('shows as many lines as there are rows, and says how many are left', async () => {
    const gaps = Array.from({ length: 30 }, (_, points) => ({ points: points + 1, reason: 'drain' }));
    const { frames } = await watched([of({ gaps })], { size: { columns: 200, rows: 10 } });
    const shown = (frames[0] ?? '').split('\r\n').slice(0, -1);
    expect(shown).toHaveLength(9);
    expect(shown.at(-1)).toMatch(/^… 26 more lines/);
    const unsaid = await watched([of({ gaps })], { size: { columns: 0, rows: 0 } });
    expect((unsaid.frames[0] ?? '').split('\r\n').slice(0, -1)).toHaveLength(23);
  });

  it('keeps NO_COLOR, and colours otherwise', async () => {
    const colours = /<ESC>\[\d+m/;
    expect(seen((await watched([of(behind)])).text)).not.toMatch(colours);
    expect(seen((await watched([of(behind)], { colour: true })).text)).toMatch(colours);
  });

  it('is for a terminal, and for people', async () => {
    const { code, line } = await watched([healthy], { terminal: false });
    expect(code).toBe(exitCodes.usage.code);
    expect(line.stderr()).toContain('--json');
    expect(line.stdout()).toBe('');
    expect((await watched([healthy], {}, '--json')).code).toBe(exitCodes.usage.code);
    expect((await watched([healthy], {}, '--every', '0')).code).toBe(exitCodes.usage.code);
  });

  it('ends at a bug', async () => {
    const line = commandLine({ terminal: true, roles: { status: () => Promise.reject(new TypeError('x')) } });
    expect(await line.run('status', '--watch')).toBe(exitCodes.internal.code);
    expect(line.stdout().endsWith('\u001b[?25h')).toBe(true);
  });
});

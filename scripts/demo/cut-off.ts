/**
 * The target is gone for a while, under a writer that does not notice: the process server's spool fills, `tidemark status` says what binds, and all
 * of it drains when the target is back. Points that were cut meanwhile are then as good as any.
 */
import { systemClock } from '../../src/kit/clock.ts';
import { tidemark } from './process.ts';
import type { Site } from './site.ts';

export interface CutOffFigures {
  /** Without a target. */
  readonly seconds: number;
  /** What was in the spool at the end of that, and how many points waited. */
  readonly spooledBytes: number;
  readonly pointsWaiting: number;
  /** Which stage `status` named, and why. */
  readonly stage: string;
  readonly why: string;
  /** From the start of the target until nothing waited any more. */
  readonly drainSeconds: number;
  /** Wall clock, milliseconds. */
  readonly fromMs: number;
  readonly toMs: number;
}

interface Explained {
  readonly machines: readonly { readonly stage: { readonly name: string; readonly why: string } | null }[];
}

const spoolSeries = 'tidemark_process_server_spool_used_bytes';
const waitingSeries = 'tidemark_process_server_points_waiting';
const pollMs = 250;
const deadlineMs = 120_000;
const pointsWanted = 3;

async function until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
  const end = performance.now() + deadlineMs;
  while (performance.now() < end) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    await systemClock.sleep(pollMs);
  }
  throw new Error(`${what} did not happen within ${deadlineMs / 1000} s`);
}

/** While something is written to the disk. */
export async function cutOffTarget(site: Site, say: (text: string) => void): Promise<CutOffFigures> {
  const { machine } = site.options;
  const spooled = async (): Promise<number> => (await site.metric('process-server', spoolSeries)) ?? 0;
  const waiting = async (): Promise<number> => (await site.metric('process-server', waitingSeries)) ?? 0;
  await site.kill('target');
  const [killed, fromMs] = [performance.now(), systemClock.wallMs()];
  say('  killed the target with SIGKILL; the writer goes on');
  await until('the spool', async () => ((await waiting()) >= pointsWanted && (await spooled()) > 0) || undefined);
  // Its exit code says that the machine is not protected as it should be: true enough.
  const status = async (...more: string[]): Promise<string> =>
    (await tidemark(['status', machine, ...site.operator, ...more])).stdout;
  const { name, why } = await until('an explanation', async () => {
    const { machines } = JSON.parse(await status('--json')) as Explained;
    const stage = machines[0]?.stage ?? undefined;
    return stage && ['spool', 'target'].includes(stage.name) ? stage : undefined;
  });
  const [spooledBytes, pointsWaiting] = [await spooled(), await waiting()];
  say(`  ${(spooledBytes / 1e6).toFixed(1)} MB and ${pointsWaiting} points wait in the spool; tidemark status:`);
  for (const line of (await status()).trimEnd().split('\n')) say(`    ${line}`);
  const [seconds, toMs] = [(performance.now() - killed) / 1000, systemClock.wallMs()];
  const started = performance.now();
  await site.startTarget();
  await until('the drain', async () => ((await spooled()) === 0 && (await waiting()) <= 1) || undefined);
  const drainSeconds = (performance.now() - started) / 1000;
  say(`  started the target again; drained after ${drainSeconds.toFixed(1)} s`);
  return { seconds, spooledBytes, pointsWaiting, stage: name, why, drainSeconds, fromMs, toMs };
}

/** The quickstart as a user runs it, on a small disk: every figure it prints is of this run, and all of it holds. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { requireTool } from '../tools.ts';

interface Printed {
  readonly identical: boolean;
  readonly points: readonly { readonly identical: boolean; readonly proven: boolean }[];
  readonly kill: { readonly batchesBefore: number; readonly batchesAfter: number };
  readonly resync: { readonly blocksChanged: number; readonly blocksHashed: number; readonly blocksSent: number };
  readonly cutOff: {
    readonly spooledBytes: number;
    readonly pointsWaiting: number;
    readonly stage: string;
    readonly drainSeconds: number;
  };
  readonly failover: {
    readonly identical: boolean;
    readonly writable: boolean;
    readonly rtoSeconds: number | null;
    readonly said: string | null;
  };
}

const limitMs = 120_000;
const size = 32 * 1024 * 1024;
const blockBytes = 65_536;

it(
  'replicates, survives, spools while the target is away, resyncs and starts an older point',
  { timeout: limitMs + 10_000 },
  async () => {
    const script = fileURLToPath(new URL('../../dist/scripts/quickstart.js', import.meta.url));
    const printed = await new Promise<Printed>((resolve, reject) => {
      const words = [script, '--size', String(size), '--json'];
      execFile(process.execPath, words, { timeout: limitMs }, (error, stdout, stderr) => {
        if (error) reject(new Error(stderr, { cause: error }));
        else resolve(JSON.parse(stdout) as Printed);
      });
    });
    expect(printed.identical).toBe(true);
    expect(printed.points).toHaveLength(3);
    for (const point of printed.points) expect(point).toMatchObject({ identical: true, proven: true });
    expect(printed.kill.batchesAfter).toBeGreaterThan(0);
    const { cutOff } = printed;
    // The target was gone, the writer wrote, and status said what binds.
    expect(cutOff.spooledBytes).toBeGreaterThan(0);
    expect(cutOff.pointsWaiting).toBeGreaterThanOrEqual(3);
    expect(['spool', 'target']).toContain(cutOff.stage);
    expect(cutOff.drainSeconds).toBeGreaterThan(0);
    const { blocksChanged, blocksHashed, blocksSent } = printed.resync;
    // All is looked at, and what was changed behind the agent's back is found: nothing else is sent.
    expect(blocksHashed).toBeGreaterThanOrEqual(size / blockBytes);
    expect([blocksChanged > 0, blocksSent]).toEqual([true, blocksChanged]);
    expect(printed.failover).toMatchObject({ identical: true, writable: true });
    if (!requireTool('qemu-system-x86_64')) return;
    expect(printed.failover.said).toBe('quickstart, as it was replicated first');
    expect(printed.failover.rtoSeconds).toBeGreaterThan(0);
  },
);

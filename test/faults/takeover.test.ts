/**
 * Machines move between process servers under a writer that never stops: killed, moved by command, and stopped for longer than a lease and woken up
 * again while another has the machine. Every point is whole afterwards. That is the work of three things: owners that stop in time by their own clock, a
 * session that ends another one, and the target's fence, which is tried alone in `target/fencing*.test.ts`, as it never has to hold by itself here. Both
 * stories run at once, each on a site of its own: most of the time they wait for a lease to end.
 *
 * TIDEMARK_TEST_SOAK=1 stops and wakes 50 times.
 */
import { describe, expect, it } from 'vitest';
import { limits } from '../../src/limits.ts';
import { Postgres, requirePostgres } from '../control/postgres.ts';
import { diceOf, seedOfRun } from '../product/content.ts';
import { SeveralServers } from './several-servers.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const rounds = soak ? 50 : 1;
const { leaseMs } = limits.leases;
/** What is promised to whoever loses a process server. */
const takeoverSeconds = 15;
/** A machine where much else runs takes longer for everything; quiet ones are held to the promise. */
const slackSeconds = process.env['CI'] === 'true' ? 0 : 10;

describe.concurrent('several process servers', () => {
  it(
    'take machines over from one that was killed, stopped, or told to',
    { timeout: 120_000 + rounds * 60_000 },
    async ({ onTestFinished }) => {
      const seed = seedOfRun('takeover');
      const dice = diceOf(seed);
      const all = await SeveralServers.start(seed, ['ps-a', 'ps-b']);
      onTestFinished(() => all.close());
      const other = (name: string): string => (name === 'ps-a' ? 'ps-b' : 'ps-a');
      const took: Record<string, number[]> = { move: [], SIGKILL: [], SIGSTOP: [] };

      const first = await all.ownerKnown();
      const movedMs = Date.now();
      await all.move('--to', other(first));
      await all.scene.until('the machine is with the other', async () =>
        (await all.owner()) === other(first) ? true : undefined,
      );
      took['move']?.push(await all.flowsAgain(Date.now()));
      expect(Date.now() - movedMs).toBeLessThan((takeoverSeconds + slackSeconds) * 1000);

      const killed = await all.ownerKnown();
      all.server(killed).signal('SIGKILL');
      took['SIGKILL']?.push(await all.flowsAgain(Date.now()));
      expect(await all.owner()).toBe(other(killed));
      await all.startServer(killed);

      for (let round = 0; round < rounds; round += 1) {
        const stopped = await all.ownerKnown();
        await all.pause(dice.between(0, 1000));
        all.server(stopped).signal('SIGSTOP');
        const stoppedMs = Date.now();
        took['SIGSTOP']?.push(await all.flowsAgain(stoppedMs));
        expect(await all.owner()).toBe(other(stopped));
        await all.pause(Math.max(0, stoppedMs + leaseMs + 500 - Date.now()));
        // It wakes up with a session, batches and a lease of its own that are all over.
        all.server(stopped).signal('SIGCONT');
        await all.flowsAgain(Date.now());
        expect(await all.owner()).toBe(other(stopped));
      }
      const points = await all.allWhole();
      const worst = Math.max(...Object.values(took).flat());
      const text = Object.entries(took).map(([how, list]) => `${how} ${list.map((one) => one.toFixed(1)).join(' ')}`);
      process.stderr.write(`takeover: ${text.join(', ')} s until points are made again; ${points} points whole\n`);
      expect(worst).toBeLessThan(takeoverSeconds + slackSeconds);
    },
  );

  it.skipIf(!requirePostgres())(
    'go on by their leases when the database is away or takes no writes, stop cleanly when those are over, and resume',
    { timeout: 240_000 },
    async ({ onTestFinished }) => {
      const seed = seedOfRun('leases on PostgreSQL');
      const server = await Postgres.start();
      onTestFinished(() => server.remove());
      const address = server.address(await server.database());
      const all = await SeveralServers.start(seed, ['ps-a', 'ps-b'], ['env', `TIDEMARK_CONTROL_STATE=${address}`]);
      onTestFinished(() => all.close());
      await all.ownerKnown();
      const newestCutMs = async (): Promise<number> => (await all.scene.points()).at(-1)?.cutTimeMs ?? 0;

      // Away for less than a lease: nobody notices.
      await server.stopServer();
      await all.pause(2000);
      await server.startServer();
      await all.flowsAgain(Date.now());

      await server.setReadOnly(true);
      const readOnlyMs = Date.now();
      await all.flowsAgain(readOnlyMs + 2000);
      await all.pause(Math.max(0, readOnlyMs + leaseMs + 3000 - Date.now()));
      const stoppedMs = await newestCutMs();
      expect(stoppedMs).toBeLessThan(readOnlyMs + leaseMs + 1000);
      await all.pause(2000);
      expect(await newestCutMs()).toBe(stoppedMs);
      for (const one of all.servers.values()) expect(one.isOver).toBe(false);

      await server.setReadOnly(false);
      const seconds = await all.flowsAgain(Date.now(), 60_000);
      const points = await all.allWhole();
      const flowed = ((stoppedMs - readOnlyMs) / 1000).toFixed(1);
      process.stderr.write(
        `PostgreSQL read-only: points for ${flowed} s more, again after ${seconds.toFixed(1)} s; ${points} points whole\n`,
      );
    },
  );
});

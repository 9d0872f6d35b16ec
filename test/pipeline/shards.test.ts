/** A machine whose sessions go back and forth between two process servers that both live on, as shards of one port do. */
import { afterEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import type { ProcessServer } from '../../src/process-server/server.ts';
import { readBack } from './read-back.ts';
import { Site } from './site.ts';
import { machine } from './surroundings.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  return smallLimits(await load());
});

let site: Site | null = null;
afterEach(() => site?.remove());

test('a machine that moves between shards, half-open sessions left behind, has only true points', async () => {
  site = await Site.started({ blockSize: 4096, sizes: [300_032, 200_192] });
  const { agentHop } = site;
  const shards: ProcessServer[] = [];
  if (site.processServer) shards.push(site.processServer);
  site.newProcessServer('lives on');
  if (site.processServer) shards.push(site.processServer);
  const moves = 16;
  let points = 0;
  for (let move = 0; move < moves; move += 1) {
    const [here, other] = [shards[move % 2], shards[(move + 1) % 2]];
    if (!here || !other) throw new Error('there are two shards');
    site.processServer = here;
    await site.write(0, 4096 * (move % 40), Buffer.alloc(30_000, `first ${move} `));
    // In the middle of a cycle, on even moves; half of the time nobody tells the other shard that the machine is here.
    if (move % 2 === 0) site.agent?.agent.requestCycle();
    await site.write(1, 4096 * (move % 30), Buffer.alloc(20_000, `second ${move} `));
    await systemClock.sleep(move % 5);
    agentHop.loseTouch();
    if (move % 4 < 2) other.endMachine(machine, new Problem('superseded', 'it is elsewhere', { retryable: true }));
    points = await site.point();
    expect(here.sessions.map(({ phase }) => phase)).toEqual(['open']);
  }
  expect(points).toBeGreaterThanOrEqual(moves);
  for (let point = 1; point <= points; point += 1) await site.proven(point);
  await site.endAgent('close');
  await site.endTarget('close');
  for (const shard of shards) shard.close();
  expect(site.alarms).toEqual([]);
  expect(await readBack(site)).toBeGreaterThanOrEqual(moves);
}, 30_000);

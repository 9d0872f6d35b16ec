/** The data path with the worker threads it has in the product. */
import { expect, test } from 'vitest';
import { SealPool } from '../../src/process-server/pool.ts';
import { readBack } from './read-back.ts';
import { Site } from './site.ts';

test('points made through the real pool, over cut wires, are true and proven', async () => {
  const sealer = new SealPool({ threads: 2 });
  const site = await Site.started({ blockSize: 65_536, sizes: [9_000_448, 1_000_448], sealer });
  try {
    await site.point();
    for (let round = 0; round < 4; round += 1) {
      for (let at = 0; at < 40; at += 1)
        await site.write(at % 2, (at * 24_571 + round * 333) % 900_000, Buffer.alloc(10_000, `${round}/${at}`));
      (round % 2 === 0 ? site.agentHop : site.targetHop).cutAfter(5 + round * 3);
      await site.proven(await site.point());
    }
    await site.endAgent('close');
    await site.endTarget('close');
    expect(site.alarms).toEqual([]);
    expect(await readBack(site)).toBeGreaterThanOrEqual(5);
  } finally {
    await site.remove();
    await sealer.close();
  }
});

/** What a machine is travels with its points: sent when it is news, kept when it changed, there for every point after. */
import { afterEach, expect, test } from 'vitest';
import { frameHeaderBytes, frameType } from '../../src/wire/frame.ts';
import { decodePointMessage } from '../../src/wire/point.ts';
import { plain } from '../recovery/definitions.ts';
import { Site } from './site.ts';

const blockSize = 4096;
const sites: Site[] = [];

afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

test('travels with the points: when a session begins, and when it changed', async () => {
  const site = new Site({ blockSize, sizes: [16 * blockSize] });
  sites.push(site);
  /** Processors, of each POINT that said what the machine is; null: it did not. */
  const told: (number | null)[] = [];
  site.agentHop.tap = (frame) => {
    if (frame[0] === frameType.point) {
      told.push(decodePointMessage(frame.subarray(frameHeaderBytes)).definition?.cpus ?? null);
    }
    return undefined;
  };
  await site.startTarget();
  site.newProcessServer();
  await site.startAgent();
  await site.point();
  site.definition = { ...plain, cpus: 2 };
  const two = await site.point();
  await site.point();
  site.definition = { ...plain, cpus: 4 };
  const four = await site.point();
  await site.endAgent('close');
  await site.startAgent();
  const again = await site.point();
  expect(told).toEqual([null, 2, null, 4, 4]);
  await site.endAgent('close');
  await site.endTarget('close');
  await site.startTarget();
  await site.startAgent();
  await site.point();
  const view = site.target?.store?.points;
  expect([1, two, two + 1, four, again].map((point) => view?.definitionAt(point)?.cpus)).toEqual([
    undefined,
    2,
    2,
    4,
    4,
  ]);
  expect(site.alarms).toEqual([]);
});

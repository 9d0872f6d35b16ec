/** What a process that serves a failover tells of disks that take no writes. */
import { expect, it } from 'vitest';
import { GiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { inWords, type OverlayTrouble, tellTroubles, toldTroubles } from '../../src/recovery/overlay-trouble.ts';

const told = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

it('fits into the answer of a lock, also when all disks of a machine have no room for the longest request', () => {
  const trouble: OverlayTrouble = { why: 'file-system', bytes: 4 * GiB };
  const all = new Map(Array.from({ length: limits.disk.perMachineMax }, (_, no) => [no, { trouble }] as const));
  const role = `failover unplanned-123456 of ${'m'.repeat(63)}`;
  const since = new Date(0).toISOString();
  const answer = JSON.stringify({ pid: 4_194_304, role, since, says: tellTroubles(all) });
  expect(answer.length).toBeLessThan(limits.posix.lockAnswerBytesMax);
  expect(toldTroubles(told(tellTroubles(all))).size).toBe(limits.disk.perMachineMax);
});

it('is of those disks only that are in trouble, and each has a remedy', () => {
  const whys = ['space', 'file-system', 'quota', 'sync'] as const;
  const disks = new Map<number, { readonly trouble: OverlayTrouble | null }>([[7, { trouble: null }]]);
  for (const [no, why] of whys.entries()) disks.set(no, { trouble: { why, bytes: 1 } });
  const heard = toldTroubles(told(tellTroubles(disks)));
  expect([...heard.keys()]).toEqual([0, 1, 2, 3]);
  const words = [...heard.values()].map((each) => inWords(each, 5));
  expect(words.map(({ code }) => code)).toEqual(['full', 'full', 'full', 'read-only']);
  expect(new Set(words.map(({ remedy }) => remedy)).size).toBe(4);
});

it.each([undefined, null, 'nothing', { troubles: [] }, { troubles: { 1: { why: 'else', bytes: 1 } } }])(
  'is nothing when %j was told',
  (what) => {
    expect(toldTroubles(what).size).toBe(0);
  },
);

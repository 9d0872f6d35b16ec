/** What `verify` prints, and which exit code says what. */
import { describe, expect, it } from 'vitest';
import type { VerifyReport } from '../../src/cli/roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { commandLine } from './fake-roles.ts';

const fine = {
  machine: 'web1',
  disk: 'vda',
  point: 1,
  ok: true,
  blocks: 9,
  damagedBlocks: [],
  damagedBlockCount: 0,
  rootMatches: true,
  root: 'ab',
};
const done = { content: 'checked', bodies: 'checked', seconds: 1 } as const;

describe('the command verify', () => {
  it('answers no with exit code 1, and says in one line which points of a disk are good', async () => {
    const bad = { ...fine, point: 7, ok: false, damagedBlocks: [3], damagedBlockCount: 1, rootMatches: false };
    const points = [{ ...fine, point: 4 }, { ...fine, point: 5 }, { ...fine, point: 6 }, bad, { ...fine, point: 9 }];
    const machines = [{ machine: 'web1', points: 9, findings: [{ severity: 'damage' as const, text: 'segment 3' }] }];
    const report: VerifyReport = { ...done, ok: false, machines, points };
    const line = commandLine({ roles: { verify: async () => report } });
    expect(await line.run('verify', '--point', 'all')).toBe(exitCodes['check-failed'].code);
    expect(line.stdout()).toContain(
      'web1/vda  points good: 4-6, 9; DAMAGED: 7 (root DIFFERS; 1 blocks: 3)\nweb1: damage: segment 3\n',
    );
    const good = commandLine({ roles: { verify: async () => ({ ...done, ok: true, machines: [], points: [fine] }) } });
    expect(await good.run('verify', '--json')).toBe(0);
  });

  it('without a key file tells what it could and that it is not all', async () => {
    const asked: boolean[] = [];
    const report = { ...done, ok: true, machines: [], points: [{ ...fine, blocks: null }] };
    const line = commandLine({
      roles: {
        verify: async ({ content }) => {
          asked.push(content);
          return { ...report, content: content ? 'no-key' : 'left-out' };
        },
      },
    });
    expect(await line.run('verify')).toBe(exitCodes['no-key'].code);
    expect(line.stderr()).toContain('tidemark key export');
    expect(line.stdout()).toContain('not checked, for lack of the key');
    expect(await line.run('verify', '--no-key')).toBe(0);
    expect(asked).toEqual([true, false]);
  });
});

/** Which point a failover is made of, and which it refuses. */
import { describe, expect, it } from 'vitest';
import { Problem } from '../../src/kit/problem.ts';
import { choosePointFor } from '../../src/main/failover-point.ts';
import type { PointBody } from '../../src/store/points-record.ts';
import { PointsView } from '../../src/store/points-view.ts';

function bodyOf(point: number): PointBody {
  const disk = { no: 0, size: 4096, blockSize: 4096, root: 'ab'.repeat(32), kind: 'delta' as const };
  return {
    point,
    cutTimeMs: point * 1000,
    committedMs: point * 1000 + 1,
    consistency: 'crash',
    epoch: 1,
    disks: [{ ...disk, layers: null, records: 0, payloadBytes: 0 }],
    extents: [],
  };
}

/** Points 1 to 6: 1 is retired, 3 is damaged, 2, 4 and 5 are proven. */
function points(): PointsView {
  const view = new PointsView();
  for (let point = 1; point <= 6; point += 1) view.apply({ type: 'point', body: bodyOf(point) });
  view.apply({ type: 'damaged', body: { point: 3, atMs: 1, disk: 0, blocks: [0] } });
  for (const point of [2, 4, 5]) view.apply({ type: 'proven', body: { point, atMs: 1, blocks: 1 } });
  view.apply({ type: 'retired', body: { points: [[1, 1]], atMs: 1 } });
  return view;
}

const chosen = (wanted: Parameters<typeof choosePointFor>[2]): number => choosePointFor('web1', points(), wanted).point;

function refusalOf(wanted: Parameters<typeof choosePointFor>[2]): Problem {
  try {
    chosen(wanted);
  } catch (error) {
    if (error instanceof Problem) return error;
    throw error;
  }
  return expect.fail('it was not refused');
}

describe('the point of a failover', () => {
  it('is the newest proven one unless another is named', () => {
    expect(chosen(undefined)).toBe(5);
    expect(chosen('proven')).toBe(5);
    expect(chosen('latest')).toBe(6);
    expect(chosen(6)).toBe(6);
    expect(chosen({ atMs: 5000 })).toBe(5);
    expect(chosen({ atMs: 4999 })).toBe(4);
    expect(chosen({ atMs: 3500 })).toBe(2);
  });

  it.each([
    [1, 'not-found', 'no longer kept'],
    [3, 'damaged', 'damaged'],
    [7, 'not-found', 'no point 7'],
    [{ atMs: 1999 }, 'not-found', 'no proven point at or before 1970-01-01T00:00:01.999Z'],
  ])('is not %j', (wanted, code, says) => {
    const problem = refusalOf(wanted);
    expect(problem).toMatchObject({ code });
    expect(problem.message).toContain(says);
    expect(problem.remedy).not.toBe('');
  });

  it('is none where there are none', () => {
    expect(() => choosePointFor('web1', new PointsView(), undefined)).toThrow('no proven point');
    expect(() => choosePointFor('web1', new PointsView(), 'latest')).toThrow('no point 1');
  });
});

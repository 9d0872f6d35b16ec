/** Which points are retired: by age, thinned, and which never. */
import { expect, it } from 'vitest';
import type { PointBody, PointsEntry } from '../../src/store/points-record.ts';
import { PointsView } from '../../src/store/points-view.ts';
import { keepAll, pointsToRetire, type RetentionPolicy } from '../../src/store/retention.ts';

const minute = 60_000;
const hour = 60 * minute;

interface Made {
  readonly at: number;
  /** By the target's clock, when it is not that of the source. */
  readonly committedAt?: number;
  readonly app?: boolean;
  readonly unsettled?: boolean;
}

function viewOf(points: readonly Made[], more: readonly PointsEntry[] = []): PointsView {
  const view = new PointsView();
  view.apply({ type: 'epoch', body: { epoch: 1, instance: 'a', atMs: 1 } });
  const disk = { no: 0, size: 1 << 20, blockSize: 65536, root: 'ab'.repeat(32), kind: 'delta' } as const;
  for (const [index, { at, committedAt = at, app = false, unsettled = false }] of points.entries()) {
    const body: PointBody = {
      point: index + 1,
      cutTimeMs: at,
      committedMs: committedAt,
      consistency: app ? 'app' : 'crash',
      epoch: 1,
      disks: [{ ...disk, layers: null, records: 1, payloadBytes: 1 }],
      extents: [],
    };
    view.apply({ type: 'point', body });
    if (!unsettled) view.apply({ type: 'proven', body: { point: index + 1, atMs: 1, blocks: 1 } });
  }
  for (const entry of more) view.apply(entry);
  return view;
}

const every = (count: number, ms: number): Made[] => Array.from({ length: count }, (_, at) => ({ at: at * ms }));
const retire = (view: PointsView, policy: RetentionPolicy, used: readonly number[] = []): [number, number][] =>
  pointsToRetire(view, policy, (point) => used.includes(point));

it('keeps everything unless a policy says otherwise', () => {
  expect(retire(viewOf(every(100, hour)), keepAll)).toEqual([]);
  expect(retire(viewOf([]), { hours: 1 })).toEqual([]);
});

it('retires what is older than the window, counted from the newest point', () => {
  expect(retire(viewOf(every(100, hour)), { hours: 24 })).toEqual([[1, 75]]);
  // Fifteen days at one point per half minute.
  expect(retire(viewOf(every(43_201, 30_000)), { hours: 360 })).toEqual([]);
  expect(retire(viewOf(every(43_202, 30_000)), { hours: 360 })).toEqual([[1, 1]]);
});

it('never retires pinned points, those in use, that of a failover, unsettled ones, the newest and the newest proven one', () => {
  const points = every(20, hour).map((point, at) => ({ ...point, unsettled: at === 9 || at >= 17 }));
  const view = viewOf(points, [
    { type: 'pin', body: { point: 3, pinned: true, atMs: 1 } },
    { type: 'failover', body: { id: 'unplanned-1', step: 'begun', generation: 1, point: 5, atMs: 1 } },
  ]);
  expect(retire(view, { hours: 0 }, [7])).toEqual([
    [1, 2],
    [4, 4],
    [6, 6],
    [8, 9],
    [11, 16],
  ]);
});

it('retires damaged points like others', () => {
  const view = viewOf(every(4, hour), [{ type: 'damaged', body: { point: 2, atMs: 1, disk: 0, blocks: [1] } }]);
  for (const point of [3, 4]) view.apply({ type: 'proven', body: { point, atMs: 1, blocks: 1 } });
  expect(retire(view, { hours: 1 })).toEqual([[1, 2]]);
});

it('loses nothing to one clock that jumps ahead', () => {
  const years = 10 * 365 * 24 * hour;
  expect(retire(viewOf([...every(5, hour), { at: years, committedAt: 5 * hour }]), { hours: 24 })).toEqual([]);
  expect(retire(viewOf([...every(5, hour), { at: 5 * hour, committedAt: years }]), { hours: 24 })).toEqual([]);
});

it('thins what is older to one per interval, app-consistent ones first; once more changes nothing', () => {
  const points = every(13, 10 * minute).map((point, at) => ({ ...point, app: at === 4 }));
  const policy = { hours: 24, thinning: { afterHours: 0.5, everyMinutes: 60 } };
  const view = viewOf(points);
  // Of the first hour the fifth (app), of the second the first; the last half hour is whole.
  const due = retire(view, policy);
  expect(due).toEqual([
    [1, 4],
    [6, 6],
    [8, 9],
  ]);
  view.apply({ type: 'retired', body: { points: due, atMs: 1 } });
  expect(view.kept.map(({ point }) => point)).toEqual([5, 7, 10, 11, 12, 13]);
  expect(retire(view, policy)).toEqual([]);
});

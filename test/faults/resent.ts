/**
 * What cycles may send, from the log of the writer: an upper bound that follows from the writes alone, not from what the agent says. What was
 * durable and is sent a second time shows as a sum above the bound.
 */
import type { LoggedWrite } from '../../scripts/demo/writer.ts';
import type { PointReport } from '../../src/cli/roles.ts';
import { KiB } from '../product/content.ts';
import { type Scene, writesOf } from '../product/scene.ts';

export const pageBytes = 4 * KiB;
export const blockBytes = 64 * KiB;

/** Bytes of all units of `unit` bytes that the writes touch, each counted once. */
export function touched(writes: readonly LoggedWrite[], unit: number): number {
  const units = new Set<number>();
  for (const { offset, length } of writes)
    for (let at = Math.floor(offset / unit); at * unit < offset + length; at += 1) units.add(at);
  return units.size * unit;
}

/**
 * What may have been sent for the points after `last`, when the first of them that was cut after the fault is `first` (at most one death
 * of the agent lies between): whole blocks of what changed until then, because whoever was killed or cut off may not have heard that some
 * of it was committed, and then only the changed pages of each cycle.
 */
export function mayHaveSent(
  scene: Scene,
  last: PointReport,
  points: readonly PointReport[],
  first: PointReport,
): number {
  const life = scene.life();
  const { log } = life.writer;
  const before = scene.lifeOf(last).writer.log;
  const until = writesOf(first);
  let bytes = touched(
    scene.lifeOf(last) === life
      ? log.slice(writesOf(last), until)
      : [...before.slice(writesOf(last)), ...log.slice(0, until)],
    blockBytes,
  );
  let from = until;
  for (const point of points.filter(({ cutTimeMs }) => cutTimeMs > first.cutTimeMs)) {
    bytes += touched(log.slice(from, writesOf(point)), pageBytes);
    from = writesOf(point);
  }
  return bytes + touched(log.slice(from), pageBytes);
}

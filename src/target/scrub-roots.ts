/**
 * The end of each pass over everything stored: whether every kept point's root is made by what the index has of it. Merkle nodes that are not right are a cache
 * and made anew; where records are missing or other ones, the point can not be read as a whole, and is marked so: DAMAGED without a block, for nobody knows
 * which.
 */
import { geometryOf } from '../disk/geometry.ts';
import type { Logger } from '../observe/logger.ts';
import type { DiskStore } from '../store/disk-store.ts';
import type { MachineStore } from '../store/machine-store.ts';
import type { RootFinding } from '../store/point-roots.ts';
import { keptPointsOf } from '../store/version-points.ts';
import type { TargetCounters } from './counters.ts';
import type { ScrubPace } from './scrub-pace.ts';

export interface RootsOptions {
  readonly store: MachineStore;
  readonly pace: ScrubPace;
  readonly logger: Logger;
  readonly counters: TargetCounters;
  /** Proofs were taken back. */
  readonly proofsWanted: () => void;
}

/** @throws Problem `index-failed`, `full`, and the signal's reason. */
export async function checkRoots(options: RootsOptions, signal: AbortSignal): Promise<void> {
  const { store } = options;
  for (const disk of store.disks) {
    for (const { point, maxSeq } of keptPointsOf(store.points, disk.no)) {
      // One with damage makes no claim.
      if (store.points.isRetired(point) || store.points.stateOf(point) === 'damaged') continue;
      await checkRoot(options, disk, { point, maxSeq }, signal);
    }
  }
}

async function checkRoot(
  { store, pace, logger, counters, proofsWanted }: RootsOptions,
  disk: DiskStore,
  { point, maxSeq }: { readonly point: number; readonly maxSeq: number },
  signal: AbortSignal,
): Promise<void> {
  const listed = store.points.point(point)?.disks.find(({ no }) => no === disk.no);
  if (!listed) return;
  const { size, blockSize, root } = listed;
  const at = { no: disk.no, point, geometry: geometryOf(size, blockSize), root, maxSeq };
  const steps = await store.storedRecords().findRoot(at);
  let found: RootFinding | null = null;
  while (found === null) {
    const step = await pace.run(() => Promise.resolve(steps.next()), signal);
    if (step.done === true) found = step.value;
  }
  // A point that was retired meanwhile may have lost records by right.
  if (found.kind === 'whole' || store.points.isRetired(point)) return;
  counters.integrityErrors += 1;
  const where = { machine: store.machine, disk: disk.name, point };
  if (found.kind === 'nodes') {
    logger.error(
      { ...where, nodes: found.changed.length },
      'scrub: Merkle nodes in the index were wrong; they are made anew',
    );
    await store.noteNodes(disk, point, found.changed);
    return;
  }
  counters.scrubDamage += 1;
  logger.error({ ...where, points: [point, point] }, 'scrub: the records of this point do not make its root');
  await store.markDamaged(point, disk, []);
  proofsWanted();
}

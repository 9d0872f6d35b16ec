/** What a target tells about the replica of a machine beside its points: how much is kept, what it takes, how much of it was checked, who uses it. */
import type { TargetReport } from '../control/report-schemas.ts';
import { longestSpacingMs } from '../store/points-kept.ts';
import type { Target } from '../target/target.ts';

type ReplicaFacts = NonNullable<TargetReport['machines'][number]['replica']>;

const known = (value: number | undefined): number | null => (value === undefined ? null : Math.round(value));

/** `failovers`: ids of those there are of the machine. Null: its store is not open. */
export function replicaFacts(target: Target, machine: string, failovers: readonly string[]): ReplicaFacts | null {
  const view = target.stores().get(machine)?.points;
  if (!view) return null;
  const use = target.folders().get(machine)?.use ?? null;
  const scrubber = target.scrubbers().get(machine);
  return {
    points: view.kept.length,
    oldestCutMs: known(view.kept[0]?.cutTimeMs),
    longestSpacingMs: known(longestSpacingMs(view.kept)),
    pinned: view.kept.filter(({ point }) => view.isPinned(point)).length,
    storedBytes: use?.stored ?? null,
    liveBytes: use?.live ?? null,
    backlogBytes: use?.backlog ?? null,
    checkedRatio: scrubber?.coverage ?? null,
    checkedSinceMs: known(scrubber?.checkedSinceMs),
    failovers: [...failovers],
  };
}

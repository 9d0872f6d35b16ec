/** What is scheduled for a machine, soonest first. What is due already is under way, and no plan any more. */
import type { AgentReport, TargetReport } from './report-schemas.ts';
import type { Upcoming } from './status-schemas.ts';

/** Null: nobody says it, or only somebody who fell silent. */
export interface Plans {
  readonly nowMs: number;
  readonly agent: AgentReport | null;
  readonly held: TargetReport['machines'][number] | null;
}

export function upcomingOf({ nowMs, agent, held }: Plans): Upcoming[] {
  const at = (what: Upcoming['what'], atMs: number | null = null, disk: string | null = null): Upcoming[] =>
    atMs === null || atMs <= nowMs ? [] : [{ what, atMs, disk }];
  const flow = agent?.flow;
  return [
    ...at('retry', flow?.retry?.atMs),
    ...at('cut', flow?.nextCutMs),
    ...(agent?.disks ?? []).flatMap(({ name, resync }) => at('resync-window', resync?.opensAtMs, name)),
    ...at('app-point', flow?.nextAppPointMs),
    ...at('scrub', held?.flow?.nextScrubMs),
  ].sort((a, b) => a.atMs - b.atMs);
}

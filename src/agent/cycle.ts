/**
 * One cycle: pre-copy rounds, a cut, the last round under it, POINT. Plan (`plan.ts`), drive (here), report (the returned outcome). The answer
 * comes later, perhaps while the next cycle runs (`points-in-flight.ts`).
 *
 * What ends a cycle early never loses a set: the caller calls `sessionEnded` (session gone) or this file gives the cut up
 * (void cut, writes that did not drain), and everything returns to *current*, also what POINTs in flight wait for (DESIGN §3).
 */
import type { CutAll, CutReport } from '../capture/contract.ts';
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { MachineDefinition } from '../wire/definition.ts';
import type { Gap } from '../wire/gap.ts';
import type { PointMessage } from '../wire/point.ts';
import type { AgentCounters } from './counters.ts';
import type { FlightLog } from './flight-log.ts';
import { nextStep } from './plan.ts';
import type { PointsInFlight, SentPoint } from './points-in-flight.ts';
import type { ReplicaDisk } from './replica-disk.ts';
import { LayerSender, type BuilderPool, type LayerResult } from './sender.ts';
import type { Session } from './session.ts';

export type CycleOutcome =
  | { readonly kind: 'sent'; readonly cutTimeMs: number }
  | { readonly kind: 'given-up'; readonly cause: Gap['reason']; readonly reason: string };

export interface CycleContext {
  readonly session: Session;
  readonly points: PointsInFlight;
  /** Called right before POINT goes out. */
  readonly sending: (point: SentPoint) => void;
  readonly disks: readonly ReplicaDisk[];
  /** By disk, what was sent before the first round (`resync-stretches.ts`); of the others, nothing. */
  readonly ahead: readonly LayerResult[];
  readonly cutAll: CutAll;
  readonly counters: AgentCounters;
  readonly flight: FlightLog;
  readonly clock: Clock;
  readonly builders: BuilderPool;
  readonly pace: (bytes: number) => Promise<void>;
  /** What made the cut app-consistent; null: nothing did. Asked for after the cut. */
  readonly evidence: () => string | null;
  /** What the machine is, beside its disks; default and null: nobody said. Travels with the points. */
  readonly definition?: () => MachineDefinition | null;
}

interface Sums {
  records: number;
  payloadBytes: number;
}

/** Rejects when the session ended, and with what the state directory refused; everything else is an outcome. */
export async function runCycle(context: CycleContext): Promise<CycleOutcome> {
  const sums: Sums[] = context.disks.map((_, index) => ({ records: 0, payloadBytes: 0, ...context.ahead[index] }));
  await preCopy(context, sums);
  const cut = await context.cutAll(
    context.disks.map((disk) => disk.capture),
    limits.capture.cutDrainMs,
  );
  if (!cut) {
    context.counters.cutsGivenUp += 1;
    return {
      kind: 'given-up',
      cause: 'drain',
      reason: `writes in flight did not end within ${limits.capture.cutDrainMs} ms`,
    };
  }
  context.counters.writersHeldMsMax = Math.max(context.counters.writersHeldMsMax, cut.heldMs);
  for (const [index, disk] of context.disks.entries()) {
    try {
      add(sums[index], await sendLayer(context, index, disk, true));
    } catch (error) {
      if (context.session.isOver || disk.capture.cutVoid === null) throw error;
    }
    const reason = disk.capture.cutVoid;
    if (reason !== null) {
      for (const each of context.disks) each.capture.giveUp();
      context.counters.cutsGivenUp += 1;
      const cause = disk.capture.tracking === 'scan' ? 'other' : 'copy-before-write';
      return { kind: 'given-up', cause, reason };
    }
    disk.capture.endSending();
  }
  return sendPoint(context, cut, sums);
}

async function preCopy(context: CycleContext, sums: Sums[]): Promise<void> {
  let previousBytes: number | null = null;
  for (let round = 0; ; round += 1) {
    const bytes = context.disks.reduce((sum, disk) => sum + disk.capture.currentBytes, 0);
    if (nextStep({ round, bytes, previousBytes }) === 'cut') return;
    previousBytes = bytes;
    for (const [index, disk] of context.disks.entries()) {
      if (disk.capture.swap() > 0) add(sums[index], await sendLayer(context, index, disk, false));
      disk.capture.endSending();
    }
  }
}

async function sendLayer(
  context: CycleContext,
  index: number,
  disk: ReplicaDisk,
  underCut: boolean,
): Promise<LayerResult> {
  const { session, counters, flight, clock, builders, pace } = context;
  return new LayerSender({ session, disk, index, underCut, pace, counters, flight, clock, builders }).send();
}

async function sendPoint(context: CycleContext, cut: CutReport, sums: readonly Sums[]): Promise<CycleOutcome> {
  const { session, points } = context;
  const disks: PointMessage['disks'] = context.disks.map((disk, index) => ({
    disk: index,
    size: disk.capture.geometry.size,
    root: Buffer.from(disk.leaves.workingRoot()).toString('hex'),
    layers: disk.layers,
    kind: disk.kind,
    records: sums[index]?.records ?? 0,
    payloadBytes: sums[index]?.payloadBytes ?? 0,
    writes: cut.writes[index] ?? 0,
  }));
  const { cutTimeMs } = cut;
  if (!points.mayFollow(cutTimeMs)) await points.answered();
  for (const disk of context.disks) await disk.pointSent(points.count + 1);
  const claim = claimOf(context);
  const payloadBytes = sums.reduce((sum, each) => sum + each.payloadBytes, 0);
  context.sending({ cut, payloadBytes, app: claim.consistency === 'app' });
  await session.sendPoint({ cutTimeMs, ...claim, definition: context.definition?.() ?? null, disks });
  return { kind: 'sent', cutTimeMs };
}

/** What the point may claim: the least any of its disks can, `app` only with the evidence. */
function claimOf({ disks, evidence }: CycleContext): Pick<PointMessage, 'consistency' | 'evidence'> {
  if (disks.some((disk) => disk.capture.consistency === 'none')) return { consistency: 'none' };
  const proof = evidence();
  return proof === null ? { consistency: 'crash' } : { consistency: 'app', evidence: proof.slice(0, 1024) };
}

function add(sums: Sums | undefined, result: LayerResult): void {
  if (!sums) return;
  sums.records += result.records;
  sums.payloadBytes += result.payloadBytes;
}

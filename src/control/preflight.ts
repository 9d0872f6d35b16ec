/**
 * What can be told before it hurts: when a policy is set or a machine protected, what its machines really need is held against the RPO target. Only
 * what was measured counts; where nothing was, nothing is said.
 *
 * A transfer takes as long as the newest cycle took from its cut to its commit, or, where that is longer, as long as what changes in an interval takes
 * at the drain rate that was measured, both over a quarter of an hour. More than half of the target leaves no room for anything that goes wrong.
 */
import { durationText } from '../kit/figures.ts';
import { limits } from '../limits.ts';
import type { AgentFlow } from './flow-schemas.ts';
import { because } from './reasons.ts';
import { listAll } from './records.ts';
import { storedReport } from './report-schemas.ts';
import { rpoTargetOf } from './rpo.ts';
import { machineSchema, type Policy } from './schemas.ts';
import { limitAbovePolicy } from './throttles.ts';
import { isSilent } from './sources.ts';
import type { Reason } from './status-schemas.ts';
import type { State } from './state.ts';

const { preflightShare, rpoTightIntervals } = limits.control;

/** Seconds; null: nothing was measured. */
function transferSeconds({ cycle, churn, drain }: AgentFlow, intervalSeconds: number): number | null {
  const committedMs = cycle?.committedMs ?? null;
  const took = cycle === null || committedMs === null ? null : (committedMs - cycle.cutMs) / 1000;
  const churned = churn?.quarterHour ?? null;
  const drained = drain?.quarterHour ?? null;
  const needed = churned === null || drained === null || drained === 0 ? null : (churned * intervalSeconds) / drained;
  return took === null ? needed : Math.max(took, needed ?? 0);
}

/** @param flows of the machines of the policy, by name. */
export function preflight(policy: Policy, flows: ReadonlyMap<string, AgentFlow>): Reason[] {
  const { intervalSeconds } = policy;
  const target = rpoTargetOf(policy);
  const tight =
    target < rpoTightIntervals * intervalSeconds
      ? [
          because(
            'target-tight',
            `an RPO target of ${durationText(target)} is less than ${rpoTightIntervals} intervals of ${durationText(intervalSeconds)}: between two points it is breached by the least delay`,
          ),
        ]
      : [];
  const long = [...flows].flatMap(([name, flow]) => {
    const seconds = transferSeconds(flow, intervalSeconds);
    if (seconds === null || seconds <= preflightShare * target) return [];
    const message = `${name}: a transfer takes ${durationText(seconds)} as measured, more than half of the RPO target of ${durationText(target)}`;
    return [because('transfer-long', message)];
  });
  return [...tight, ...long];
}

/** Of the machines of the policy, or of one of them, as their agents said last and are still heard. */
export async function preflightOf(
  state: State,
  nowMs: number,
  policyName: string,
  policy: Policy,
  only?: string,
): Promise<{ readonly warnings?: Reason[] }> {
  const flows = new Map<string, AgentFlow>();
  const overridden: Reason[] = [];
  for (const { id, value } of await listAll(state, 'machines')) {
    const machine = machineSchema.parse(value);
    if (only === undefined ? machine.policy !== policyName : id !== only) continue;
    const above = limitAbovePolicy(id, machine.throttle, policyName, policy);
    if (above !== null) overridden.push(because('limit-above-policy', above));
    const record = await state.get('reports', `agent/${id}`);
    if (!record) continue;
    const { report, receivedMs } = storedReport.parse(record.value);
    if (report.role === 'agent' && report.flow && !isSilent(nowMs, receivedMs)) flows.set(id, report.flow);
  }
  const warnings = [...preflight(policy, flows), ...overridden];
  return warnings.length > 0 ? { warnings } : {};
}

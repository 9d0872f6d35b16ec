/**
 * What control foresees whenever an agent reports, so that a warning neither depends on who asks for the status nor on which control answers: what
 * is remembered between two reports stands beside the report. The age is taken from the agent's own words; the status takes the target's.
 */
import { forecastOf, foreseen, type Foreseen } from './forecast.ts';
import { sumOf } from './machine-status.ts';
import * as reports from './report-schemas.ts';
import { rpoTargetOf } from './rpo.ts';
import * as schemas from './schemas.ts';
import type { State } from './state.ts';

export async function foreseenBy(
  state: State,
  name: string,
  { flow, disks, connected }: reports.AgentReport,
  nowMs: number,
): Promise<Foreseen | null> {
  const record = await state.get('reports', `agent/${name}`);
  const before = record ? reports.storedReport.parse(record.value).foreseen : null;
  const machine = await state.get('machines', name);
  if (!machine) return null;
  const { policy: policyName, paused } = schemas.machineSchema.parse(machine.value);
  const stored = await state.get('policies', policyName);
  if (!stored || paused) return null;
  const policy = schemas.policySchema.parse(stored.value);
  const cutMs = flow?.cycle?.cutMs ?? null;
  const age = cutMs === null ? null : Math.max(0, nowMs - cutMs) / 1000;
  const behind = sumOf(disks.map(({ lagBytes }) => lagBytes));
  const { intervalSeconds: interval } = policy;
  const forecast = forecastOf(flow, { age, target: rpoTargetOf(policy), interval, behind }, !connected);
  return foreseen(before, forecast, nowMs);
}

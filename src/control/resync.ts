/**
 * Resync on request: what an operator has an agent compare, kept until the agent says that it is done.
 *
 * Invariants:
 *  1. One record per machine, and its version is the id of the request. Versions are never given twice, so an agent's "done" never means
 *     what was asked for since.
 *  2. A request is forgotten only when the agent said that it is done, or with its machine. Whoever dies in between costs a comparison that
 *     is made twice; none is lost. The agent has to remember nothing.
 *  3. Requests that are not done are made one: all disks asked for, each at once if any of them said so.
 */
import type { Clock } from '../kit/clock.ts';
import { parseDayWindow } from '../kit/day-window.ts';
import { limits } from '../limits.ts';
import type { Handlers } from './http.ts';
import { conflict, machineOf, notFound, policyOf } from './records.ts';
import * as reports from './report-schemas.ts';
import * as schemas from './schemas.ts';
import type { State } from './state.ts';

async function agentOf(state: State, name: string, nowMs: number): Promise<schemas.ResyncReply['agent']> {
  const record = await state.get('reports', `agent/${name}`);
  if (!record) return 'never-seen';
  const { receivedMs, report } = reports.storedReport.parse(record.value);
  if (nowMs - receivedMs > limits.control.reportSilentMs) return 'silent';
  return report.role === 'agent' && report.connected ? 'connected' : 'disconnected';
}

export function resyncing({ state, clock }: { state: State; clock: Clock }): Pick<Handlers, 'requestResync'> {
  return {
    async requestResync({ name, body: { disks, now } }) {
      const machine = await machineOf(state, name);
      const { policy } = await policyOf(state, machine.policy);
      const valid = machine.disks.map((disk) => disk.name);
      const stranger = disks?.find((disk) => !valid.includes(disk));
      if (stranger !== undefined) throw notFound(`disk of ${name}:`, stranger, valid, 'protect it first');
      const record = await state.get('resyncs', name);
      const before = record ? schemas.storedResync.parse(record.value).disks : [];
      const nowMs = clock.wallMs();
      const asked = valid
        .map((disk) => {
          const known = before.find((one) => one.name === disk);
          const wanted = disks?.includes(disk) ?? true;
          return { name: disk, now: (wanted && now) || known?.now === true, asked: wanted || known !== undefined };
        })
        .flatMap((disk) => (disk.asked ? [{ name: disk.name, now: disk.now }] : []));
      const value = { askedMs: nowMs, disks: asked } satisfies schemas.StoredResync;
      const expected = record?.version ?? 0;
      const result = await state.commit([{ collection: 'resyncs', id: name, value, expected }]);
      const id = result.ok ? result.versions[0] : undefined;
      if (id === undefined) throw conflict(`what is asked of ${name}`);
      const window = policy.resyncWindow === null ? null : parseDayWindow(policy.resyncWindow, policy.resyncTimeZone);
      const opensAtMs = window === null || window.isOpen(nowMs) ? null : window.opensAt(nowMs);
      const timeZone = policy.resyncTimeZone;
      const agent = await agentOf(state, name, nowMs);
      return { value: { machine: name, id, disks: asked, agent, window: window?.text ?? null, opensAtMs, timeZone } };
    },
  };
}

/** What the agent that reports is still to do, after it said which request is done. */
export async function pendingResync(
  state: State,
  machine: string,
  done: number | null,
): Promise<reports.ReportReply['resync']> {
  const record = await state.get('resyncs', machine);
  if (!record) return null;
  if (record.version !== done) return { id: record.version, disks: schemas.storedResync.parse(record.value).disks };
  // What was asked for meanwhile stays, and goes with the next answer.
  await state.commit([{ collection: 'resyncs', id: machine, value: undefined, expected: record.version }]);
  return null;
}

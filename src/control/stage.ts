/**
 * Which stage binds: the one that all before it wait to hand over to, and all behind it wait for. Found by following the chain of
 * pressure from the disk to the proof, by the first of these rules that applies:
 *
 *  1. Replication is paused, or stopped for good: `agent`.
 *  2. The target of the machine can not be reached: `target`. The agent has no session otherwise: `process-server` where none reports, else `link`.
 *  3. A *leg* of a cycle is slow. By its timestamps the longest of cut → sent (sending), sent → durable (storing), durable → committed (committing)
 *     of the oldest point in flight, or of the newest committed one where that took longer; a cycle shorter than `bindingShare` of
 *     the interval binds nothing. Where none was committed lately, what the agent waited for says which leg it is, if that is `bindingShare` of its window.
 *     a. Sending: what the agent waited for most. Reads: `capture`; hashing: `agent`; handing over: what the head of the process server's queue waited
 *        for most. Nothing to do: then the bytes are in between, `link`; a worker: `process-server`; `throttle`; `spool`; the target: rule 4.
 *     b. Storing: what the head of the process server's queue waited for most, without its waiting for work, where that is `bindingShare` of what the leg
 *        took. Else all of it was under way: `link`, if less than half of the time was spent behind the process server; else rule 4.
 *     c. Committing: rule 4.
 *  4. `target`; but `link` if the target itself took less than a quarter of the time that passed until its answer was there.
 *  5. Points are committed in time and wait to be proven for longer than `proofGraceMs`: `proof`.
 *
 * Rejected: taking the stage with the highest utilisation. What is busy because everybody waits for it and what is just busy look the same.
 * Words of a role that fell silent are not used: the caller leaves them out. What nobody said leads to no stage, never to a guess.
 */
import { limits } from '../limits.ts';
import type { AgentFlow, SessionFlow, TargetFlow } from './flow-schemas.ts';
import type { Stage } from './status-schemas.ts';

const { bindingShare, proofGraceMs } = limits.control;

/** What is known of one machine; null: nobody says it, or only somebody who fell silent. */
export interface FlowEvidence {
  readonly nowMs: number;
  readonly intervalMs: number | null;
  /** Paused, or why it stopped for good. */
  readonly held: string | null;
  readonly connected: boolean | null;
  readonly processServers: number;
  readonly targetUnreachable: boolean;
  readonly agent: AgentFlow | null;
  readonly session: SessionFlow | null;
  readonly target: TargetFlow | null;
  /** How long the oldest point that is not proven has waited for that. */
  readonly unprovenMs: number | null;
}

type Leg = 'sending' | 'storing' | 'committing';

const seconds = (ms: number): string => `${Number((ms / 1000).toFixed(1))} s`;
const stage = (name: Stage['name'], why: string): Stage => ({ name, why });

/** The longest of several, by what is known of each; the first of equals. Null: all are 0 or there are none. */
function longest<N extends string>(parts: readonly (readonly [N, number])[]): readonly [N, number] | null {
  let found: readonly [N, number] | null = null;
  for (const part of parts) if (part[1] > (found?.[1] ?? 0)) found = part;
  return found;
}

/** A cycle that was committed within so many intervals says how it is now. */
const cyclesFresh = 2;

interface SlowLeg {
  readonly leg: Leg;
  /** How long it took, and which share of the time such legs take up. Null: known by what the agent waited for only. */
  readonly took: { readonly ms: number; readonly share: number } | null;
  readonly why: string;
}

/** How long each leg took; one that is under way lasts until now. */
function legsOf({ cutMs, sentMs, durableMs, committedMs }: NonNullable<AgentFlow['cycle']>, nowMs: number) {
  const committed = committedMs ?? nowMs;
  const durable = durableMs ?? committed;
  const sent = sentMs ?? durable;
  const legs: (readonly [Leg, number])[] = [
    ['sending', sent - cutMs],
    ['storing', durable - sent],
    ['committing', committed - durable],
  ];
  return { totalMs: committed - cutMs, longest: longest(legs) };
}

const legText = {
  sending: 'from cut to sent',
  storing: 'from sent to durable',
  committing: 'from durable to committed',
};

function slowLegByTimes({ cycle, open }: AgentFlow, { nowMs, intervalMs }: FlowEvidence): SlowLeg | null {
  const done = cycle && legsOf(cycle, nowMs);
  const under = open && legsOf(open, nowMs);
  const slower = under && under.totalMs >= (done?.totalMs ?? 0) ? under : done;
  if (!slower?.longest || slower.totalMs < bindingShare * (intervalMs ?? 0)) return null;
  const [leg, ms] = slower.longest;
  const which = slower === under ? 'the point in flight' : 'the newest point';
  const took = { ms, share: ms / Math.max(slower.totalMs, intervalMs ?? 0) };
  return { leg, took, why: `${which} took ${seconds(ms)} of ${seconds(slower.totalMs)} ${legText[leg]}` };
}

function slowLegByWaits({ waits, cycle }: AgentFlow, { nowMs, intervalMs }: FlowEvidence): SlowLeg | null {
  const committedMs = cycle?.committedMs ?? null;
  const isFresh = committedMs !== null && intervalMs !== null && nowMs - committedMs <= cyclesFresh * intervalMs;
  if (!waits || isFresh) return null;
  const { windowMs, readMs, hashMs, sendMs, commitMs } = waits;
  const sendingMs = readMs + hashMs + sendMs;
  if (windowMs === 0 || sendingMs + commitMs < bindingShare * windowMs) return null;
  const leg = sendingMs >= commitMs ? 'sending' : 'committing';
  return {
    leg,
    took: null,
    why: `of the last ${seconds(windowMs)} the agent spent ${seconds(Math.max(sendingMs, commitMs))} ${leg}`,
  };
}

/** A target that took less of the time until its answer was there is not what took it. */
const ownShare = 0.25;

/** Rule 4. */
function beyond({ session, target, agent }: FlowEvidence, leg: Leg, why: string): Stage {
  const { committedMs = null, durableMs = null } = agent?.cycle ?? {};
  const committingMs = committedMs === null || durableMs === null ? null : committedMs - durableMs;
  const there = (leg === 'committing' ? target?.commitMs : target?.batchMs) ?? null;
  const whole = (leg === 'committing' ? committingMs : session?.durableMs) ?? null;
  if (there === null || whole === null || there >= ownShare * whole) return stage('target', why);
  return stage('link', `${why}; the target itself took ${seconds(there)} of ${seconds(whole)}`);
}

const waitText = {
  target: 'the target',
  throttle: 'what its limits allow',
  spool: 'its spool',
  'process-server': 'its workers',
  link: 'something to do, while the agent waited to hand over',
} as const;

/** What the head of the process server's queue waited for most, if that is at least `share` of its window; null: nobody says, or it is not. */
function downstream(of: FlowEvidence, leg: 'sending' | 'storing', share = 0): Stage | null {
  const waits = of.session?.waits;
  if (!waits) return null;
  const { windowMs, agentMs, poolMs, targetMs, spoolMs, throttleMs } = waits;
  const found = longest([
    ['target', targetMs],
    ['throttle', throttleMs],
    ['spool', spoolMs],
    ['process-server', poolMs],
    ['link', leg === 'sending' ? agentMs : 0],
  ] as const);
  if (!found || found[1] < share * windowMs) return null;
  const [name, ms] = found;
  const why = `of the last ${seconds(windowMs)} the process server waited ${seconds(ms)} for ${waitText[name]}`;
  return name === 'target' ? beyond(of, leg, why) : stage(name, why);
}

/** Rule 3b. */
function whileStoring(of: FlowEvidence, { took, why }: SlowLeg): Stage {
  const waited = downstream(of, 'storing', bindingShare * (took?.share ?? 1));
  if (waited) return waited;
  const behindMs = of.session?.durableMs ?? null;
  if (took === null || behindMs === null || behindMs >= took.ms / 2) return beyond(of, 'storing', why);
  return stage('link', `${why}, and only ${seconds(behindMs)} of that behind the process server`);
}

/** Rule 3a. */
function whileSending(of: FlowEvidence, why: string): Stage {
  const waits = of.agent?.waits;
  const found =
    waits &&
    longest([
      ['send', waits.sendMs],
      ['read', waits.readMs],
      ['hash', waits.hashMs],
    ] as const);
  if (!found) return stage('agent', why);
  const [name, ms] = found;
  const share = `of the last ${seconds(waits.windowMs)} the agent spent ${seconds(ms)}`;
  if (name === 'read') return stage('capture', `${share} waiting for reads of the disks`);
  if (name === 'hash') return stage('agent', `${share} hashing`);
  return downstream(of, 'sending') ?? stage('link', `${share} waiting to hand over`);
}

/** The first rule that applies; null: nothing binds, or nobody says enough. */
export function bindingStage(of: FlowEvidence): Stage | null {
  const { held, connected, processServers, targetUnreachable, agent, session, unprovenMs } = of;
  if (held !== null) return stage('agent', held); // 1
  if (session?.target?.reachable === false || (targetUnreachable && connected === false))
    return stage('target', 'the process server does not reach the target'); // 2
  if (connected === false) {
    return processServers === 0
      ? stage('process-server', 'the agent has no session, and no process server reports')
      : stage('link', 'the agent has no session with its process server');
  }
  const slow = agent && (slowLegByTimes(agent, of) ?? slowLegByWaits(agent, of)); // 3
  switch (slow?.leg) {
    case 'sending':
      return whileSending(of, slow.why);
    case 'storing':
      return whileStoring(of, slow);
    case 'committing':
      return beyond(of, 'committing', slow.why);
    case undefined:
      break;
  }
  if (unprovenMs !== null && unprovenMs > proofGraceMs)
    return stage('proof', `the oldest point that is not proven was committed ${seconds(unprovenMs)} ago`); // 5
  return null;
}

/** What to do where a stage binds. The page of the README says more. */
export const stageRemedies: Readonly<Record<Stage['name'], string>> = {
  capture: "the machine's disk is read too slowly: see what else reads or writes it",
  agent: 'see its reasons; raise `agent.cpuPercent`, or give it another core',
  link: 'see whether the hosts reach one another, and give the connection more bandwidth',
  'process-server': 'see whether it runs, and give it more cores, or move machines to another',
  throttle: 'the limits that were set for it bind: raise them, or wait until their hours are over',
  spool: "the process server's spool is too slow or too small: give it a faster or larger disk",
  target: 'see whether the target runs, and whether its disk keeps up (`fio`, `iostat`)',
  proof: 'points are committed, but reading them back is slow: see whether the target is overloaded',
};

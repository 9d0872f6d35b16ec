/** What a process server tells control: who is here, what its sessions wait for, whether it reaches its target, and what waits on its disk. */
import type { SessionFlow } from '../control/flow-schemas.ts';
import type { ProcessServerReport } from '../control/report-schemas.ts';
import { limits } from '../limits.ts';
import type { SessionCounters } from '../process-server/counters.ts';
import type { ProcessServer, TargetFailure } from '../process-server/server.ts';
import type { MachineSpoolReport } from '../process-server/spool-report.ts';
import type { HeadWaits } from '../process-server/waits.ts';
import { formatAddress, type Address } from '../transport/address.ts';

/** What of a process server is told. */
export type ToldProcessServer = Pick<
  ProcessServer,
  'sessions' | 'grantedBytes' | 'targetFailure' | 'spoolReport' | 'waits' | 'totals'
>;

interface Facts {
  readonly server: ToldProcessServer;
  readonly target: Address;
  readonly version: string;
  /** Wall clock. */
  readonly nowMs: number;
}

/** `HeadWaits` is about so much. */
const waitsWindowMs = 10_000;

type Problems = ProcessServerReport['problems'];

function targetProblem({ atMs, problem }: TargetFailure, target: Address): Problems[number] {
  const since = new Date(atMs).toISOString();
  return {
    code: problem.code.slice(0, 64),
    message: `target ${formatAddress(target)}, ${since}: ${problem.message}`.slice(0, 1024),
    remedy: 'start the target, or correct its address; agents try again by themselves',
    retryable: true,
  };
}

function spoolProblem({ machine, failure }: MachineSpoolReport): Problems {
  if (failure === null) return [];
  return [
    {
      code: 'spool-failed',
      message: `the spool can not be written: ${failure}`.slice(0, 1024),
      remedy: 'see to its disk; nothing is lost: the agent keeps what changes until the target has it',
      retryable: true,
      machine,
    },
  ];
}

function waitsOf(waits: HeadWaits | null): SessionFlow['waits'] {
  if (waits === null) return null;
  const { agent, pool, target, spool, throttle } = waits;
  return {
    windowMs: waitsWindowMs,
    agentMs: agent,
    poolMs: pool,
    targetMs: target,
    spoolMs: spool,
    throttleMs: throttle,
  };
}

/** One that is not on disk and whose target is there is not in the spool's report. */
function targetOf(spooled: MachineSpoolReport | undefined, isOpen: boolean): SessionFlow['target'] {
  if (!spooled) return isOpen ? { reachable: true, sinceMs: null } : null;
  const { targetSinceMs } = spooled;
  return { reachable: targetSinceMs !== null, sinceMs: targetSinceMs === null ? null : Math.round(targetSinceMs) };
}

type Durable = Pick<SessionCounters, 'batchesDurable'> & { readonly durableMs: number };

/** Remembers from one report to the next what was counted, so that means are about what happened lately. */
export class ProcessServerReporter {
  #before: ReadonlyMap<string, Durable> = new Map();

  make({ server, target, version, nowMs }: Facts): ProcessServerReport {
    const { usedBytes, limitBytes, level, machines } = server.spoolReport();
    const { sessions, targetFailure } = server;
    const spooled = new Map(machines.map((one) => [one.machine, one]));
    const open = new Set(sessions.filter(({ phase }) => phase === 'open').map(({ machine }) => machine));
    const means = this.#durableMeans(server);
    const names = [...new Set([...spooled.keys(), ...sessions.map(({ machine }) => machine)])];
    const reachable: ProcessServerReport['target'] =
      targetFailure === null
        ? open.size > 0
          ? { reachable: true, sinceMs: null }
          : null
        : { reachable: false, sinceMs: Math.round(targetFailure.atMs) };
    return {
      role: 'process-server',
      atMs: Math.round(nowMs),
      version,
      problems: [
        ...(targetFailure ? [targetProblem(targetFailure, target)] : []),
        ...machines.flatMap(spoolProblem),
      ].slice(0, problemsMax),
      sessions: sessions.length,
      inFlightBytes: Math.min(server.grantedBytes, limits.processServer.inFlightBytesMax),
      machines: names.slice(0, limits.control.sessionsPerReportMax).map((machine) => {
        const held = spooled.get(machine);
        return {
          machine,
          waits: waitsOf(server.waits(machine)),
          durableMs: means.get(machine) ?? null,
          target: targetOf(held, open.has(machine)),
          spool: held
            ? {
                bytes: held.bytes,
                points: held.points,
                oldestMs: held.oldestMs === null ? null : Math.max(0, Math.round(nowMs - held.oldestMs)),
              }
            : null,
        };
      }),
      spool: limitBytes === 0 ? null : { level, usedBytes, limitBytes },
      target: reachable,
    };
  }

  /** Milliseconds from sent to durable of what became durable since the report before, by machine. */
  #durableMeans(server: ToldProcessServer): Map<string, number> {
    const means = new Map<string, number>();
    const now = new Map<string, Durable>();
    for (const [machine, { batchesDurable, stageMs }] of server.totals()) {
      now.set(machine, { batchesDurable, durableMs: stageMs.durable });
      const before = this.#before.get(machine);
      const batches = batchesDurable - (before?.batchesDurable ?? 0);
      if (before && batches > 0) means.set(machine, Math.max(0, stageMs.durable - before.durableMs) / batches);
    }
    this.#before = now;
    return means;
  }
}

/** As many as one report may carry (`control/report-schemas.ts`). */
const problemsMax = 64;

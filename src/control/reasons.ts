/** Every reason control itself finds why health is not `ok`, with how bad it is and what to do about it. */
import type { StoredReport } from './report-schemas.ts';
import type { Health, Reason } from './status-schemas.ts';

export type ReportedProblem = StoredReport['report']['problems'][number];

const known = {
  paused: ['warning', 'let it go on with `tidemark resume`'],
  'no-point': ['warning', 'wait for the initial replication, or see what stops it'],
  behind: ['warning', 'see whether agent, process server and target run and reach one another'],
  'rpo-breached': ['critical', 'see whether agent, process server and target run and reach one another'],
  'breach-foreseen': ['warning', 'see the page "Why am I behind" of the README'],
  unproven: ['warning', 'see whether the target has its vault key and is not overloaded'],
  'disk-not-captured': ['warning', 'start the agent with this disk'],
  'resync-asked': ['warning', 'start the agent if it does not run; one that runs begins within seconds'],
  'resync-waiting': [
    'warning',
    'wait, or begin at once with `tidemark resync --now`; the points there are stay usable',
  ],
  resync: ['warning', 'wait until it is done; the points there are stay usable'],
  'agent-never-seen': ['warning', 'enroll and start the agent'],
  'agent-silent': ['warning', 'see whether it runs and reaches control'],
  'agent-disconnected': ['warning', 'see whether the process server runs'],
  'target-silent': ['warning', 'see whether it runs and reaches control'],
  damaged: ['critical', 'leave the agent running: it sends them again'],
  silent: ['warning', 'see whether it runs and reaches control'],
  'no-target': ['warning', 'enroll and start a target'],
  'no-recovery-file': ['warning', 'run `tidemark key export` on the target and keep the file elsewhere'],
  'scrub-overdue': ['warning', 'see whether the target is overloaded, or its disk too slow for what it keeps'],
  'target-filling': ['warning', 'give it space, or keep points for a shorter time (`--retention-hours`)'],
  'spool-low': ['warning', 'see what keeps the target from draining it'],
  'spool-throttling': ['warning', 'see what keeps the target from draining it; agents are slowed down meanwhile'],
  'spool-full': ['critical', 'see what keeps the target from draining it; agents keep what changes meanwhile'],
  'transfer-long': ['warning', 'raise the RPO target, or see what binds with `tidemark status`'],
  'limit-above-policy': ['warning', 'lower the limit of the machine, or raise that of its policy'],
  'target-tight': ['warning', 'raise the RPO target, or make points more often'],
} as const;

/** @param remedy where the one of the table is not as good as what is known here. */
export function because(code: keyof typeof known, message: string, remedy?: string): Reason {
  const [severity, usual] = known[code];
  return { severity, code, message, remedy: remedy ?? usual };
}

/** M10: what can be retried is a warning, what stopped is critical. */
export function becauseOf({ retryable, code, message, remedy }: ReportedProblem): Reason {
  return { severity: retryable ? 'warning' : 'critical', code, message, remedy };
}

export function worst(reasons: readonly Reason[], others: readonly { health: Health }[] = []): Health {
  const found = new Set<Health>([...reasons.map(({ severity }) => severity), ...others.map(({ health }) => health)]);
  return found.has('critical') ? 'critical' : found.has('warning') ? 'warning' : 'ok';
}

/** Bounds of the state on PostgreSQL, and of the leases that are kept in it (`limits.ts`). */
export const state = {
  /** Of one control API. */
  connectionsMax: 8,
  /** How long a connection and a statement may take; together less than a request may. */
  connectMs: 3_000,
  statementMs: 4_000,
} as const;

export const leases = {
  /** A process server owns a machine for so long from when it asked, and asks again so often. */
  leaseMs: 10_000,
  renewEveryMs: 3_000,
  /** What it has at most for one question. */
  askMs: 3_000,
  /** It ends the machine's session so long before the lease can be over: clocks may differ in rate, and ending takes a moment. */
  stopEarlyMs: 1_000,
  /** Who did not ask for so long missed it: its lease will be over. */
  silentMs: 4_500,
  /** A process server that is asked for a machine waits so long for the lease of one that fell silent to be over. */
  takeWaitMs: 6_000,
  /** For so long after a move nobody else may take the machine. */
  moveMs: 30_000,
  /** Machines of one question. */
  machinesPerAskMax: 512,
  /** A question whose records were changed meanwhile is decided anew so often. */
  attemptsMax: 4,
  /** Process servers of a site, a further one is refused; one that was not heard for so long is forgotten. */
  serversMax: 256,
  serverForgottenMs: 3600 * 1000,
  /** How often leases of machines that are not known any more are looked for. */
  forgetEveryMs: 600_000,
  /** Share of its memory for batches in flight from which a process server is busy, and up to which one can take more. */
  busyRatio: 0.9,
  roomRatio: 0.5,
  /** It has to be busy for so long before a machine is moved from it, and then again before the next one is. */
  busyMs: 60_000,
  /** A machine that was moved, or came, stays at least so long, except by command. */
  settleMs: 600_000,
  /** A process server that could not be reached, or fell silent, is tried after the others for so long by an agent. */
  avoidUnreachableMs: 3_000,
  avoidSilentMs: 15_000,
  avoidRefusingMs: 1_000,
} as const;

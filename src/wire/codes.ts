/**
 * Every error code that travels: its WebSocket close number, its class, and what somebody who reads it can do, in one table.
 *
 * Class: `retryable` false means that trying again does not help: the agent stops at once, its health is critical, and it only looks rarely whether
 * somebody mended the reason at the other end. True: it connects again, quickly first, then by the table of pauses (`kit/retry-schedule.ts`).
 * What an ERROR says of itself counts; the table is what the sender goes by.
 */
import { Problem } from '../kit/problem.ts';

interface CodeFacts {
  readonly close: number;
  readonly retryable: boolean;
  /** One clause, for the reader of a log or of `status` at the source. */
  readonly remedy: string;
}

export const wireCodes = {
  'protocol-error': {
    close: 4001,
    retryable: false,
    remedy: 'run the same version of the product at both ends; if you do, report a bug with the logs of both',
  },
  version: { close: 4002, retryable: false, remedy: 'upgrade the older end' },
  'not-authorised': {
    close: 4003,
    retryable: false,
    remedy: 'enroll under the name of the machine, and see which disks its certificate may touch',
  },
  superseded: {
    close: 4004,
    retryable: true,
    remedy:
      'nothing if it happens once; if again and again, two agents or process servers run for this machine: stop one',
  },
  'stale-epoch': {
    close: 4005,
    retryable: true,
    remedy: 'nothing: another process server has the machine now, and the agent finds it',
  },
  shrunk: {
    close: 4006,
    retryable: false,
    remedy: 'give the disk its size back, or unprotect it and protect it anew',
  },
  'bad-geometry': {
    close: 4007,
    retryable: false,
    remedy: 'set the block size the replica was made with, or unprotect the disk and protect it anew',
  },
  'leaf-mismatch': {
    close: 4008,
    retryable: true,
    remedy:
      'nothing if it happens once: the data is sent again; if again and again, check the memory of the hosts on the way',
  },
  timeout: { close: 4009, retryable: true, remedy: 'see whether the other end and the network are overloaded' },
  full: {
    close: 4010,
    retryable: true,
    remedy: "make room where the target keeps its data, or shorten the policy's retention",
  },
  'store-failed': {
    close: 4011,
    retryable: true,
    remedy: "see the target's log: its storage could not be read or written",
  },
  unreachable: {
    close: 4012,
    retryable: true,
    remedy: 'see whether the target runs, and whether the process server reaches its port (9444)',
  },
  'shutting-down': { close: 4013, retryable: true, remedy: 'nothing if it is a restart; else start it again' },
  overloaded: { close: 4014, retryable: true, remedy: 'nothing if it passes; else add a process server' },
  damaged: {
    close: 4015,
    retryable: false,
    remedy: 'run `tidemark verify` at the target and follow what it says: stored data failed its check',
  },
  internal: { close: 4016, retryable: true, remedy: 'see the logs of process server and target, and report the bug' },
  /** The machine runs from its replica: the source is refused until that was taken back. */
  'failed-over': {
    close: 4017,
    retryable: false,
    remedy: 'stop the machine here: it runs at the target; to come back, re-protect it or cancel the failover there',
  },
  /** It may be protected again any moment. */
  unprotected: { close: 4018, retryable: true, remedy: 'protect the machine again, or stop its agent' },
  /** Another process server holds the machine by a lease; the message says which. */
  'not-owner': {
    close: 4019,
    retryable: true,
    remedy: 'nothing: the agent finds the process server that has the machine, if `agent.processServer` names it',
  },
  /** What this process server spooled of the machine goes to its target first. */
  draining: { close: 4020, retryable: true, remedy: 'nothing: what was sent before goes to the target first' },
  /** A layer of an earlier session can not go on. */
  'layer-unknown': { close: 4021, retryable: true, remedy: 'nothing: what the target does not have is sent again' },
} as const satisfies Record<string, CodeFacts>;

export type WireCode = keyof typeof wireCodes;

export function isWireCode(code: string): code is WireCode {
  return Object.hasOwn(wireCodes, code);
}

/** What the reader of a code can do about it. */
export function remedyFor(code: string): string {
  return isWireCode(code) ? wireCodes[code].remedy : 'see the logs of process server and target';
}

/** The wire code of anything thrown; what is not meant for a peer becomes `internal`. */
export function wireCodeOf(error: unknown): WireCode {
  return error instanceof Problem && isWireCode(error.code) ? error.code : 'internal';
}

/** A peer broke the protocol. Always final for the connection. */
export function protocolError(message: string): Problem {
  return new Problem('protocol-error', message, { remedy: 'both ends must run versions that speak the same protocol' });
}

/**
 * Every error code that travels, its class and its WebSocket close number, in one table. `retryable` false means: stop and tell
 * the operator; true means: reconnect with jittered back-off.
 */
import { Problem } from '../kit/problem.ts';

export const wireCodes = {
  'protocol-error': { close: 4001, retryable: false },
  version: { close: 4002, retryable: false },
  'not-authorised': { close: 4003, retryable: false },
  superseded: { close: 4004, retryable: true },
  'stale-epoch': { close: 4005, retryable: true },
  shrunk: { close: 4006, retryable: false },
  'bad-geometry': { close: 4007, retryable: false },
  'leaf-mismatch': { close: 4008, retryable: true },
  timeout: { close: 4009, retryable: true },
  full: { close: 4010, retryable: true },
  'store-failed': { close: 4011, retryable: true },
  unreachable: { close: 4012, retryable: true },
  'shutting-down': { close: 4013, retryable: true },
  overloaded: { close: 4014, retryable: true },
  damaged: { close: 4015, retryable: false },
  internal: { close: 4016, retryable: true },
  /** The machine runs from its replica: the source is refused until that was taken back. */
  'failed-over': { close: 4017, retryable: false },
  /** It may be protected again any moment. */
  unprotected: { close: 4018, retryable: true },
  /** Another process server holds the machine by a lease; the message says which. */
  'not-owner': { close: 4019, retryable: true },
  /** What this process server spooled of the machine goes to its target first. */
  draining: { close: 4020, retryable: true },
  /** A layer of an earlier session can not go on. */
  'layer-unknown': { close: 4021, retryable: true },
} as const satisfies Record<string, { close: number; retryable: boolean }>;

export type WireCode = keyof typeof wireCodes;

export function isWireCode(code: string): code is WireCode {
  return Object.hasOwn(wireCodes, code);
}

/** The wire code of anything thrown; what is not meant for a peer becomes `internal`. */
export function wireCodeOf(error: unknown): WireCode {
  return error instanceof Problem && isWireCode(error.code) ? error.code : 'internal';
}

/** A peer broke the protocol. Always final for the connection. */
export function protocolError(message: string): Problem {
  return new Problem('protocol-error', message, { remedy: 'both ends must run versions that speak the same protocol' });
}

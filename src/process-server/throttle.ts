/**
 * What limits how fast a process server takes from agents and sends to targets, as its sessions see it. Machine and policy limits
 * pace what an agent may send (plain bytes, by holding credit back); the process server's own limit paces what leaves for the targets
 * (sealed bytes, by waiting before a SEALED is sent).
 *
 * Invariants:
 *  1. A wait here is no fault of the target: it never makes anything go to the spool. The agent, out of credit, lets its changes meet in
 *     one layer.
 *  2. Everything offered is passed on in the end, in parts or whole, whatever the limits become; nothing is passed on after `end`.
 *  3. Without limits everything is passed on in the same turn, and `take` asks for no turn of the event loop beyond its promise.
 */
import type { Cycle } from '../wire/cycle.ts';

export type LayerKind = Cycle['kind'];

/** Of one session: the credit of its agent. */
export interface AgentThrottle {
  /** The window has so many bytes more for the agent: they are passed on, now or in parts later. */
  offer(bytes: number): void;
  /** The agent used so much of its credit, for a layer of this kind. */
  used(bytes: number, kind: LayerKind): void;
  /** True while credit is held back and the agent has not enough left for a batch: then the session waits for the throttle, not for the agent. */
  readonly holds: boolean;
  /** Idempotent. */
  end(): void;
}

/** Of one session: its way to the target. */
export interface EgressThrottle {
  /** Resolves when so many sealed bytes may go out; at most one at a time is asked for. Rejects with the reason of `end`. */
  take(bytes: number, kind: LayerKind): Promise<void>;
  /** Idempotent. */
  end(reason: Error): void;
}

export interface Throttle {
  /** @param pass gives the agent so much credit. */
  agent(machine: string, pass: (bytes: number) => void): AgentThrottle;
  egress(machine: string): EgressThrottle;
}

/** No limits. */
export const unthrottled: Throttle = {
  agent: (_machine, pass) => ({ offer: pass, used: () => undefined, holds: false, end: () => undefined }),
  egress: () => ({ take: () => Promise.resolve(), end: () => undefined }),
};

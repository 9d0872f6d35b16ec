/**
 * Which process server a machine should be with. Pure.
 *
 *  1. Only who was heard lately is offered. First who has the machine, or is to have it; then by room, so that new machines spread.
 *  2. A process of a process server is busy when what it has in flight fills its memory, and has room again only well below that; it has to be busy for a
 *     while before a machine is moved from it, to a process server all of whose processes have room, one machine at a time; what was moved stays for long.
 *     So load does not make machines wander to and fro. Who has one machine only keeps it: elsewhere it would be as much work.
 */
import { limits } from '../limits.ts';
import type { Lease, StoredProcess } from './lease-schemas.ts';
import { holderOf, movingTo } from './leases.ts';
import { isHeard, type Servers } from './servers.ts';

const { roomRatio, busyMs, settleMs } = limits.leases;

/** Names of those that were heard lately, those with more room first. */
export function byRoom(servers: Servers, nowMs: number): string[] {
  return [...servers]
    .filter(([, server]) => isHeard(server, nowMs))
    .sort(
      ([a, one], [b, other]) =>
        Math.sign(one.busyProcesses) - Math.sign(other.busyProcesses) ||
        one.sessions - other.sessions ||
        (a < b ? -1 : 1),
    )
    .map(([name]) => name);
}

/** Addresses for a machine's agent, in the order in which it should try them. */
export function offered(lease: Lease | undefined, servers: Servers, nowMs: number): string[] {
  const names = byRoom(servers, nowMs);
  const heard = (name: string): boolean => names.includes(name);
  const first = movingTo(lease, { nowMs, heard }) ?? holderOf(lease, nowMs);
  const order = first !== null && heard(first) ? [first, ...names.filter((name) => name !== first)] : names;
  return order.flatMap((name) => servers.get(name)?.address ?? []);
}

/** Whether a machine may have to be moved from it. */
export const isOverloaded = ({ busySinceMs: since }: StoredProcess, nowMs: number): boolean =>
  since !== null && nowMs - since >= busyMs;

export interface ReliefWorld {
  readonly servers: Servers;
  /** When a machine was last moved from or to a process server because of load. */
  readonly movedMs: (server: string) => number | undefined;
  readonly nowMs: number;
}

/** The machine that an overloaded process of `name` should lose, and to whom; null: none. `leases`: of its own machines. */
export function relief(
  name: string,
  leases: ReadonlyMap<string, Lease>,
  { servers, movedMs, nowMs }: ReliefWorld,
): { readonly machine: string; readonly to: string } | null {
  const restless = (server: string): boolean => {
    const moved = movedMs(server);
    return moved !== undefined && Math.abs(nowMs - moved) < busyMs;
  };
  if (leases.size < 2 || restless(name)) return null;
  const hasRoom = (other: string): boolean => (servers.get(other)?.fullest ?? Infinity) <= roomRatio;
  const to = byRoom(servers, nowMs).find((other) => other !== name && hasRoom(other) && !restless(other));
  const settled = [...leases]
    .filter(([, { takenMs, move }]) => move === null && nowMs - takenMs >= settleMs)
    .sort(([, one], [, other]) => one.takenMs - other.takenMs);
  const [machine] = settled[0] ?? [];
  return machine === undefined || to === undefined ? null : { machine, to };
}

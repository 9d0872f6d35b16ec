/**
 * Which process server a machine should be with. Pure.
 *
 *  1. Only who was heard lately is offered. First who has the machine, or is to have it; then by room, so that new machines spread.
 *  2. A process server is busy when what it has in flight fills its memory, and has room again only well below that; it has to be busy for a
 *     while before a machine is moved from it, to one that has room, one machine at a time; what was moved stays for long. So load does not make
 *     machines wander to and fro. Who has one machine only keeps it: elsewhere it would be as much work.
 */
import { limits } from '../limits.ts';
import type { Lease, StoredServer } from './lease-schemas.ts';
import { holderOf, movingTo } from './leases.ts';

const { leaseMs, busyRatio, roomRatio, busyMs, settleMs } = limits.leases;

export type Servers = ReadonlyMap<string, StoredServer>;

/** Who was heard in the future was heard before the clock was set back; nobody knows how long ago. */
export const isHeard = ({ heardMs }: Pick<StoredServer, 'heardMs'>, nowMs: number): boolean =>
  Math.abs(nowMs - heardMs) < leaseMs;

const loadOf = ({ inFlightBytes, windowBytes }: StoredServer): number =>
  windowBytes === 0 ? 0 : inFlightBytes / windowBytes;

/** What is stored of a process server that was heard now. */
export function heardNow(
  before: StoredServer | undefined,
  said: Pick<StoredServer, 'address' | 'sessions' | 'inFlightBytes' | 'windowBytes'>,
  nowMs: number,
): StoredServer {
  const { busySinceMs: since = null, movedMs: moved = null } = before ?? {};
  const movedMs = moved === null ? null : Math.min(moved, nowMs);
  const server = { ...said, heardMs: nowMs, busySinceMs: since, movedMs };
  const load = loadOf(server);
  // Silence is not being busy: nobody knows what was meanwhile.
  const known = since !== null && before !== undefined && isHeard(before, nowMs);
  if (load >= busyRatio) return { ...server, busySinceMs: known ? since : nowMs };
  return { ...server, busySinceMs: load > roomRatio && known ? since : null };
}

/** Names of those that were heard lately, those with more room first. */
export function byRoom(servers: Servers, nowMs: number): string[] {
  const busy = (server: StoredServer): number => (server.busySinceMs === null ? 0 : 1);
  return [...servers]
    .filter(([, server]) => isHeard(server, nowMs))
    .sort(([a, one], [b, other]) => busy(one) - busy(other) || one.sessions - other.sessions || (a < b ? -1 : 1))
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

/** The machine that `name` should lose for it is busy, and to whom; null: none. `leases`: of its machines. */
export function relief(
  name: string,
  servers: Servers,
  leases: ReadonlyMap<string, Lease>,
  nowMs: number,
): { readonly machine: string; readonly to: string } | null {
  const restless = (server: StoredServer | undefined): boolean => (server?.movedMs ?? -busyMs) > nowMs - busyMs;
  const server = servers.get(name);
  const since = server?.busySinceMs ?? null;
  if (since === null || nowMs - since < busyMs || restless(server) || leases.size < 2) return null;
  const to = byRoom(servers, nowMs).find((other) => {
    const there = servers.get(other);
    return other !== name && there !== undefined && loadOf(there) <= roomRatio && !restless(there);
  });
  const settled = [...leases]
    .filter(([, { takenMs, move }]) => move === null && nowMs - takenMs >= settleMs)
    .sort(([, one], [, other]) => one.takenMs - other.takenMs);
  const [machine] = settled[0] ?? [];
  return machine === undefined || to === undefined ? null : { machine, to };
}

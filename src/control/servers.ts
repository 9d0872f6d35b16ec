/**
 * Process servers as control knows them: by their questions for leases, and by the load they tell in them. One with `--shards` is several processes of one
 * name, which ask beside each other, each with a session and a load of its own. So what is stored is one record per process, `<name>/<session>`, and only
 * that process writes it: none hides what another one said, and none has to try again because of another one.
 *
 *  1. A process that was not heard lately counts for nothing, and its record goes when another one of its name asks. A process server is silent when all its
 *     processes are; then what counts is what those said that were heard last.
 *  2. Sessions and memory are sums. Room is not: a machine is with one process, and cannot use what others have. So a process server is as full as its
 *     fullest process, and busy while one of them is.
 *  3. A record of before processes were told apart has the name alone for its id: it is a process like any other.
 */
import { limits } from '../limits.ts';
import { storedProcess, type StoredProcess } from './lease-schemas.ts';
import { listAll } from './records.ts';
import type { State } from './state.ts';

const { leaseMs, busyRatio, roomRatio } = limits.leases;

/** All its processes together. */
export interface Server extends Pick<StoredProcess, 'address' | 'sessions' | 'inFlightBytes' | 'windowBytes'> {
  readonly heardMs: number;
  /** How many processes it is, and how many of them are busy. */
  readonly processes: number;
  readonly busyProcesses: number;
  /** Share of its memory that the fullest of them has in flight. */
  readonly fullest: number;
}
export type Servers = ReadonlyMap<string, Server>;

export interface KnownProcess {
  readonly id: string;
  readonly name: string;
  readonly version: number;
  readonly said: StoredProcess;
}

export const processId = (name: string, session: string): string => `${name}/${session}`;

/** Who was heard in the future was heard before the clock was set back; nobody knows how long ago. */
export const isHeard = ({ heardMs }: Pick<StoredProcess, 'heardMs'>, nowMs: number): boolean =>
  Math.abs(nowMs - heardMs) < leaseMs;

const loadOf = ({ inFlightBytes, windowBytes }: StoredProcess): number =>
  windowBytes === 0 ? 0 : inFlightBytes / windowBytes;

/** What is stored of a process that was heard now. */
export function heardNow(
  before: StoredProcess | undefined,
  said: Pick<StoredProcess, 'address' | 'sessions' | 'inFlightBytes' | 'windowBytes'>,
  nowMs: number,
): StoredProcess {
  const since = before?.busySinceMs ?? null;
  const process = { ...said, heardMs: nowMs, busySinceMs: since };
  const load = loadOf(process);
  // Silence is not being busy: nobody knows what was meanwhile.
  const known = since !== null && before !== undefined && isHeard(before, nowMs);
  if (load >= busyRatio) return { ...process, busySinceMs: known ? since : nowMs };
  return { ...process, busySinceMs: load > roomRatio && known ? since : null };
}

/** @param processes at least one. */
function joined(processes: readonly [StoredProcess, ...StoredProcess[]], nowMs: number): Server {
  const newestFirst = [...processes].sort((one, other) => other.heardMs - one.heardMs);
  const heard = newestFirst.filter((one) => isHeard(one, nowMs));
  const newest = heard[0] ?? newestFirst[0] ?? processes[0];
  const counted = heard.length > 0 ? heard : newestFirst.filter((one) => isHeard(one, newest.heardMs)); // 1
  const sum = (of: (one: StoredProcess) => number): number => counted.reduce((all, one) => all + of(one), 0);
  return {
    address: newest.address,
    sessions: sum(({ sessions }) => sessions),
    inFlightBytes: sum(({ inFlightBytes }) => inFlightBytes),
    windowBytes: sum(({ windowBytes }) => windowBytes),
    heardMs: newest.heardMs,
    processes: counted.length,
    busyProcesses: counted.filter(({ busySinceMs }) => busySinceMs !== null).length,
    fullest: Math.max(...counted.map(loadOf)),
  };
}

export async function knownProcesses(state: State): Promise<KnownProcess[]> {
  const records = await listAll(state, 'servers');
  return records.map(({ id, version, value }) => ({
    ...{ id, version, said: storedProcess.parse(value) },
    name: id.split('/', 1)[0] ?? id,
  }));
}

export function serversOf(processes: readonly Pick<KnownProcess, 'name' | 'said'>[], nowMs: number): Servers {
  const byName = new Map<string, [StoredProcess, ...StoredProcess[]]>();
  for (const { name, said } of processes) {
    const others = byName.get(name);
    if (others) others.push(said);
    else byName.set(name, [said]);
  }
  return new Map([...byName].map(([name, all]) => [name, joined(all, nowMs)]));
}

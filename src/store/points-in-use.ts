/**
 * Points that a process reads, so that fold leaves their content where it is (`recovery/FAILOVER.md`, "Points in use are kept").
 *
 * Two kinds of files say so. `in-use/<name>.json` counts while a living process holds it locked: whoever ends, however it ends, gives its points
 * back. `failovers/<id>/failover.json` counts as long as it is there, because a machine that was started elsewhere outlives its processes.
 *
 * Invariants:
 *  1. Who holds a point writes its file first and looks into `points.log` then; who retires one writes RETIRED first and looks for files then. So at
 *     least one of the two sees the other: the holder refuses a retired point, or fold keeps its content.
 *  2. A file under its own name is locked, or its process is gone: it is written and locked beside, and gets its name then. So removing one that
 *     is not locked takes nothing from anybody.
 *  3. What can not be understood counts for all points, since ever: better a fold too little than one too many.
 *  4. In a directory that can not be written nothing can be held. That does where no target runs that could fold; where one does (who may read but not
 *     write is another user), nothing is read that could go meanwhile.
 *  5. Who deletes the machine writes such a file of its own and looks for the others then; who holds a point looks for that one then. So at least one
 *     of the two gives way, and nobody's point goes with the machine. A directory without `machine.json` is no machine: nothing in it is held.
 */
import * as path from 'node:path';
import { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { isProblem, Problem, systemCode } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import type { Files } from '../posix/files.ts';
import { acquireLock, lockHolder, type Lock, type LockIdentity } from '../posix/lock.ts';
import { safeInteger } from '../wire/control-body.ts';
import { isMachine, machinePaths, readMachineFacts } from './machine-directory.ts';
import { readPoints } from './points-log.ts';
import type { PointsView } from './points-view.ts';

const inUseName = 'in-use';
/** Begins the name of the file of who deletes the machine. */
const removalRole = 'removal';
const failoversName = 'failovers';
const holdSchema = z.object({
  points: z.union([z.literal('all'), z.array(safeInteger.min(1)).min(1)]),
  sinceMs: z.number().min(0),
});
const failoverSchema = z
  .object({ point: safeInteger.min(1), createdMs: z.number().min(0) })
  .transform(({ point, createdMs }) => ({ points: [point], sinceMs: createdMs }));
const refusals = new Set(['EROFS', 'EACCES', 'EPERM']);
/** A file that fold takes for stale between its making and its lock is made again. */
const attemptsMax = 5;

interface Place {
  readonly files: Files;
  readonly clock: Clock;
  /** The target's directory. */
  readonly data: string;
  readonly machine: string;
}

export interface HoldOptions extends Place {
  readonly random: Random;
  /** `export`, `nbd`, …: for who looks into the directory. */
  readonly role: string;
  /** Every point that is kept now, or these. */
  readonly points: 'all' | readonly number[];
  /** What `points.log` says at the time of the call, for who has read it before; else it is read here. */
  readonly pointsNow?: () => Promise<PointsView>;
}

export interface PointsHold {
  /** False: the directory can not be written, and nothing is held. */
  readonly held: boolean;
  /** Idempotent. */
  release(): Promise<void>;
}

/**
 * @throws Problem `not-found` when one of the points is retired, or the machine is (being) deleted; `locked`: nothing can be held, and a target
 * runs (invariant 4).
 */
export async function holdPoints(options: HoldOptions): Promise<PointsHold> {
  const hold = await writeHold(options);
  try {
    await refuseRemoved(options);
    // Invariant 1.
    if (options.points !== 'all') await refuseRetired(options, options.points);
    return hold;
  } catch (error) {
    await hold.release();
    throw error;
  }
}

/** For who deletes the machine: from now on nobody holds a point anew. Whoever did before is seen by `heldSinceMs`. */
export function holdForRemoval(options: Omit<HoldOptions, 'role' | 'points'>): Promise<PointsHold> {
  return writeHold({ ...options, role: removalRole, points: 'all' });
}

async function writeHold(options: HoldOptions): Promise<PointsHold> {
  const { files, clock, data, machine, random, role, points } = options;
  const directory = path.join(machinePaths(data, machine).directory, inUseName);
  const name = `${role}-${process.pid}-${random.bytes(6).toString('hex')}.json`;
  const body = Buffer.from(`${JSON.stringify({ points, pid: process.pid, sinceMs: clock.wallMs() })}\n`);
  try {
    await refuseGone(options);
    await files.makeDirectory(directory);
    for (let attempt = 1; ; attempt += 1) {
      const lock = await lockedFile(options, directory, name, body);
      if (lock) return { held: true, release: () => releaseOnce(files, path.join(directory, name), lock) };
      if (attempt === attemptsMax) {
        throw new Problem('store-failed', `${directory}: what is written there is removed at once`, {
          remedy: 'run one target per directory',
          retryable: true,
        });
      }
    }
  } catch (error) {
    if (systemCode(error) === 'ENOENT') await refuseGone(options);
    if (!refusals.has(systemCode(error) ?? '')) throw error;
    const target = await lockHolder(files, clock, data);
    if (target) throw notHeld(directory, target, error);
    return { held: false, release: () => Promise.resolve() };
  }
}

function notHeld(directory: string, { role, pid }: LockIdentity, cause: unknown): Problem {
  return new Problem(
    'locked',
    `${directory} can not be written, and what is read may go: ${role} (${pid}) runs there`,
    {
      remedy: "run this as the target's user, who may write there, or stop the target first",
      cause,
    },
  );
}

/** Invariant 2. Null: somebody took it for stale before it was locked. */
async function lockedFile(options: HoldOptions, directory: string, name: string, body: Buffer): Promise<Lock | null> {
  const { files, clock, role } = options;
  const made = path.join(directory, `${name}.new`);
  const file = await files.open(made, 'exclusive');
  try {
    await file.write([body], 0);
  } finally {
    await file.close();
  }
  let lock: Lock | null = null;
  try {
    lock = await acquireLock(files, clock, made, {
      pid: process.pid,
      role,
      since: new Date(clock.wallMs()).toISOString(),
    });
    await files.rename(made, path.join(directory, name));
    return lock;
  } catch (error) {
    await lock?.release();
    const taken = isProblem(error) && error.code === 'locked';
    if (taken || systemCode(error) === 'ENOENT') {
      await files.remove(made);
      return null;
    }
    throw error;
  }
}

async function releaseOnce(files: Files, file: string, lock: Lock): Promise<void> {
  // While it is locked, so that it never lies there unlocked under its name.
  await files.remove(file).catch(() => undefined);
  await lock.release();
}

/** Invariant 5. */
async function refuseRemoved(options: HoldOptions): Promise<void> {
  const { files, data, machine } = options;
  await refuseGone(options);
  const directory = path.join(machinePaths(data, machine).directory, inUseName);
  for (const name of await files.list(directory)) {
    if (!isRemoval(name) || (await heldBy(options, path.join(directory, name))) === null) continue;
    throw new Problem('not-found', `the replica of machine ${machine} is being deleted`, {
      remedy: `see whether it is still there: tidemark points ${machine}`,
      retryable: true,
    });
  }
}

async function refuseGone({ files, data, machine }: Place): Promise<void> {
  if (await isMachine(files, data, machine)) return;
  throw new Problem('not-found', `${data} holds no machine ${machine}`, {
    remedy: 'run tidemark points to see which there are',
  });
}

function isRemoval(name: string): boolean {
  return name.startsWith(`${removalRole}-`);
}

async function refuseRetired(options: HoldOptions, points: readonly number[]): Promise<void> {
  const view = await (options.pointsNow ?? (() => readNow(options)))();
  const retired = points.find((point) => view?.isRetired(point));
  if (view && retired !== undefined) throw view.retiredProblem(options.machine, retired);
}

async function readNow({ files, data, machine }: HoldOptions): Promise<PointsView | null> {
  const facts = await readMachineFacts(files, data, machine);
  if (!facts) return null;
  const machineId = Buffer.from(facts.id, 'hex');
  return (await readPoints({ files, path: machinePaths(data, machine).pointsLog, machineId })).view;
}

/** Which points are in use now. */
export type InUse = (point: number) => boolean;

/** What one holder says. */
type Held = z.infer<typeof holdSchema>;
/** Invariant 3. */
const everything: Held = { points: 'all', sinceMs: 0 };

/** For who folds, after RETIRED is durable (invariant 1). Removes what a process left that is gone. */
export async function pointsInUse(place: Place): Promise<InUse> {
  const used = new Set<number>();
  let all = false;
  for (const { points } of await holds(place)) {
    if (points === 'all') all = true;
    else for (const point of points) used.add(point);
  }
  return (point) => all || used.has(point);
}

/** When the oldest of those that hold anything now began, by the wall clock; null: nobody does. */
export async function heldSinceMs(place: Place): Promise<number | null> {
  const since = (await holds(place)).map(({ sinceMs }) => sinceMs);
  return since.length === 0 ? null : Math.min(...since);
}

async function holds(place: Place): Promise<Held[]> {
  const { files, data, machine } = place;
  const { directory } = machinePaths(data, machine);
  const found: (Held | null)[] = [];
  for (const name of await files.list(path.join(directory, inUseName))) {
    const held = await heldBy(place, path.join(directory, inUseName, name));
    if (!isRemoval(name)) found.push(held);
  }
  for (const id of await files.list(path.join(directory, failoversName)))
    found.push(await parsed(files, path.join(directory, failoversName, id, 'failover.json'), failoverSchema));
  return found.filter((held) => held !== null);
}

/** What an in-use file says; null when its process is gone, and then the file goes too. */
async function heldBy({ files, clock }: Place, file: string): Promise<Held | null> {
  try {
    const since = new Date(clock.wallMs()).toISOString();
    const lock = await acquireLock(files, clock, file, { pid: process.pid, role: 'fold', since });
    await releaseOnce(files, file, lock);
    return null;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    if (!isProblem(error) || error.code !== 'locked') return everything;
  }
  return parsed(files, file, holdSchema);
}

/** Null: there is no such file (any more). */
async function parsed(files: Files, file: string, schema: z.ZodType<Held>): Promise<Held | null> {
  try {
    const result = schema.safeParse(JSON.parse((await files.readWhole(file)).toString('utf8')));
    return result.success ? result.data : everything;
  } catch (error) {
    const code = systemCode(error);
    return code === 'ENOENT' || code === 'ENOTDIR' ? null : everything;
  }
}

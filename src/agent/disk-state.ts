/**
 * What the agent remembers of a disk's replica between runs: `<state>/<disk>.json`, JSON with a check of all the rest. What it says of the leaf
 * file holds together with the change log (`disk-memory.ts`). Its existence also says that the disk had a change log.
 *
 * Invariants:
 *  1. A text that does not check is never believed, and never stops a machine whose disk is here: it is kept as `<disk>.json.damaged`, and the
 *     disk is compared with its replica.
 *  2. Another version's state is refused, since going on would destroy it. Its check, if it has one, is made in the same way.
 */
import path from 'node:path';
import { z } from 'zod';
import { digest } from '../kernels/hash.ts';
import { Problem } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { resyncReasons } from './resync.ts';

const leavesRecord = z.object({
  /** Merkle root over the leaf file, hex; a file with another one is not used. */
  root: z.string().regex(/^[0-9a-f]{64}$/),
  /** Of the disk at that time, bytes. */
  size: z.number().int().min(512),
  /** The committed point at which the leaves are the replica's. Null: of no point; they are what was read of the disk, and have to be compared. */
  asOf: z.number().int().min(1).nullable(),
});

export type LeavesRecord = z.infer<typeof leavesRecord>;

const format = 1;

/** Of every version. Keeps the order, which the check is made in. */
const envelope = z.record(z.string(), z.unknown());

const schema = z.object({
  format: z.literal(format),
  /** Identity of the replica at the target; another one means another target, and other keys. Null: none was met yet. */
  diskId: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .nullable(),
  /** Newest committed point this agent was told of. */
  point: z.number().int().min(1).nullable(),
  /** How many points behind `point` may be committed without this agent's having been told: POINTs were in flight. In older files: none. */
  ahead: z.number().int().min(0).default(0),
  /** What the leaf file holds: `leaves`, or `next` if its change was under way. Both null: nothing. */
  leaves: leavesRecord.nullable(),
  next: leavesRecord.nullable(),
  /** Why the disk is being compared with its replica; null: it is not. */
  resync: z.enum(resyncReasons).nullable(),
  /** Bytes. What the change log was made with goes on, whatever a policy says later. */
  blockSize: z.number().int().nullable(),
});

export type DiskState = z.infer<typeof schema>;

export function newDiskState(blockSize: number | null): DiskState {
  return { format, diskId: null, point: null, ahead: 0, leaves: null, next: null, resync: null, blockSize };
}

function statePath(directory: string, disk: string): string {
  return path.join(directory, `${disk}.json`);
}

/** Null when there is none yet; of a damaged one nothing but that there was one (invariant 1). @throws Problem `wrong-version`. */
export async function readDiskState(files: Files, directory: string, disk: string): Promise<DiskState | null> {
  const file = statePath(directory, disk);
  if (!(await files.exists(file))) return null;
  const found = parsed((await files.readWhole(file)).toString('utf8'));
  if (typeof found === 'number') {
    throw new Problem('wrong-version', `${file} has format ${found}, this program knows ${format}`, {
      remedy: 'move the file away; the disk is then compared with its replica by checksum, nothing is copied twice',
    });
  }
  if (found !== null) return found;
  await files.rename(file, `${file}.damaged`);
  const forgotten: DiskState = { ...newDiskState(null), resync: 'leaves-lost' };
  await writeDiskState(files, directory, disk, forgotten);
  return forgotten;
}

export async function writeDiskState(files: Files, directory: string, disk: string, state: DiskState): Promise<void> {
  const text = JSON.stringify({ ...state, check: checkOf(state) });
  await files.replaceFile(statePath(directory, disk), Buffer.from(`${text}\n`));
}

/** The state, the number of another format, or null: damaged. */
function parsed(text: string): DiskState | number | null {
  try {
    const { check, ...rest } = envelope.parse(JSON.parse(text));
    if (check !== undefined && check !== checkOf(rest)) return null;
    if (rest['format'] !== format) return z.number().int().parse(rest['format']);
    return check === undefined ? null : schema.parse(rest);
  } catch {
    return null;
  }
}

/** Over everything else in its order. */
function checkOf(rest: object): string {
  return Buffer.from(digest(Buffer.from(JSON.stringify(rest)))).toString('hex');
}

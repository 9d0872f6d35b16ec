/**
 * What the agent remembers of a disk's replica between runs: `<state>/<disk>.json`. What it says of the leaf file holds together with the
 * change log (`disk-memory.ts`). Its existence also says that the disk had a change log.
 */
import path from 'node:path';
import { z } from 'zod';
import { Problem, messageOf } from '../kit/problem.ts';
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

const schema = z.object({
  format: z.literal(1),
  /** Identity of the replica at the target; another one means another target, and other keys. Null: none was met yet. */
  diskId: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .nullable(),
  /** Newest committed point this agent was told of. */
  point: z.number().int().min(1).nullable(),
  /** What the leaf file holds: `leaves`, or `next` if its change was under way. Both null: nothing. */
  leaves: leavesRecord.nullable(),
  next: leavesRecord.nullable(),
  /** Why the disk is being compared with its replica; null: it is not. */
  resync: z.enum(resyncReasons).nullable(),
  /** Bytes. What the change log was made with goes on, whatever a policy says later. */
  blockSize: z.number().int().nullable(),
});

export type DiskState = z.infer<typeof schema>;

export function newDiskState(blockSize: number): DiskState {
  return { format: 1, diskId: null, point: null, leaves: null, next: null, resync: null, blockSize };
}

function statePath(directory: string, disk: string): string {
  return path.join(directory, `${disk}.json`);
}

/** Null when there is none yet. @throws Problem `wrong-version` when it can not be understood. */
export async function readDiskState(files: Files, directory: string, disk: string): Promise<DiskState | null> {
  const file = statePath(directory, disk);
  if (!(await files.exists(file))) return null;
  try {
    return schema.parse(JSON.parse((await files.readWhole(file)).toString('utf8')));
  } catch (error) {
    throw new Problem('wrong-version', `${file} is not a disk state of this version: ${messageOf(error)}`, {
      remedy: 'move the file away; the disk is then compared with its replica by checksum, nothing is copied twice',
    });
  }
}

export async function writeDiskState(files: Files, directory: string, disk: string, state: DiskState): Promise<void> {
  await files.replaceFile(statePath(directory, disk), Buffer.from(`${JSON.stringify(state)}\n`));
}

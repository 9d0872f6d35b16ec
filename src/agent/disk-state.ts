/**
 * What the agent remembers of a disk's replica between runs: `<state>/<disk>.json`. Written after the leaf file was folded to a
 * committed point and before the change log forgets (order of `ReplicaDisk.committed`), so after a crash the change log covers
 * at least what the leaf file and this file may have missed. Its existence also says that the disk had a change log.
 */
import path from 'node:path';
import { z } from 'zod';
import { Problem, messageOf } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';

const schema = z.object({
  format: z.literal(1),
  /** Identity of the replica at the target; another one means another target. Null: no point was committed yet. */
  diskId: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .nullable(),
  /** Newest committed point this agent was told of. */
  point: z.number().int().min(1).nullable(),
  /** What the leaf file holds as of that point: its root (hex) and the size of the disk, bytes. A file that does not is not used. */
  leaves: z
    .object({ root: z.string().regex(/^[0-9a-f]{64}$/), size: z.number().int().min(512) })
    .nullable()
    .default(null),
  /** Bytes. What the change log was made with goes on, whatever a policy says later. */
  blockSize: z.number().int().nullable().default(null),
});

export type DiskState = z.infer<typeof schema>;

export function newDiskState(blockSize: number): DiskState {
  return { format: 1, diskId: null, point: null, leaves: null, blockSize };
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

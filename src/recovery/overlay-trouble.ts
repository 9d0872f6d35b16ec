/**
 * Why a disk of a failover takes no writes at the moment. The process that serves it knows, and tells whoever asks who holds the failover's
 * directory locked (`posix/lock.ts`): nothing has to be written for that where there may be no room to write it. What it tells is short, since
 * all disks share one answer; whoever shows it puts it into words.
 */
import { z } from 'zod';
import { systemCode } from '../kit/problem.ts';
import { safeInteger } from '../wire/control-body.ts';

const troubleSchema = z.object({
  /** What the overlays of the failover may take together; what the file system has; a quota on it; a sync failed, which is final. */
  why: z.enum(['space', 'file-system', 'quota', 'sync']),
  /** What the last write that needed room needed, at most. */
  bytes: safeInteger,
});
const toldSchema = z.object({ troubles: z.record(z.string(), troubleSchema) });

export type OverlayTrouble = z.infer<typeof troubleSchema>;

/** @param disks the disks there are, by number. @returns what is told, at most `limits.posix.lockAnswerBytesMax` as JSON with an identity. */
export function tellTroubles(disks: ReadonlyMap<number, { readonly trouble: OverlayTrouble | null }>): unknown {
  const troubles = [...disks].flatMap(([no, { trouble }]) => (trouble ? [[String(no), trouble] as const] : []));
  return { troubles: Object.fromEntries(troubles) } satisfies z.infer<typeof toldSchema>;
}

/** By number of the disk. One that was told nothing it understands knows of none. */
export function toldTroubles(told: unknown): ReadonlyMap<number, OverlayTrouble> {
  const { data } = toldSchema.safeParse(told);
  return new Map(Object.entries(data?.troubles ?? {}).map(([no, trouble]) => [Number(no), trouble]));
}

/** Null: it was not for want of room. */
export function whyNoRoom(error: unknown): 'file-system' | 'quota' | null {
  const code = systemCode(error);
  if (code === 'ENOSPC') return 'file-system';
  return code === 'EDQUOT' ? 'quota' : null;
}

const goesOn = 'what was written before is there, and writes go on then';

export const remedies: Readonly<Record<OverlayTrouble['why'], string>> = {
  space: 'let the machine discard what it does not need, or start the failover with more --space',
  'file-system': `make room on the file system of the data directory; ${goesOn}`,
  quota: `make room within the quota on the data directory, or raise it; ${goesOn}`,
  sync: 'check the disk under the data directory; flushed writes are there when the failover is started again',
};

/** For people; the disk is named by whoever shows it. @param spaceBytes what the overlays of the failover may take. */
export function inWords(
  { why }: OverlayTrouble,
  spaceBytes: number,
): { readonly code: 'full' | 'read-only'; readonly message: string; readonly remedy: string } {
  const messages: Readonly<Record<OverlayTrouble['why'], string>> = {
    space: `there is no room for what is written: the overlays of this failover may take ${spaceBytes} bytes and no more`,
    'file-system': 'there is no room for what is written: the file system of its overlay is full',
    quota: 'there is no room for what is written: the quota on the file system of its overlay is used up',
    sync: 'it can only be read from now on: its overlay could not be made durable',
  };
  return { code: why === 'sync' ? 'read-only' : 'full', message: messages[why], remedy: remedies[why] };
}

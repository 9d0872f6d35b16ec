/**
 * Whether the images of served disks are still the files that were opened. A file that was removed, replaced or cut short under a running agent
 * goes on being written to through it: nobody would notice until a restart, when what was written since is gone. So it is looked at with
 * every report, and what is wrong is critical until it is mended.
 *
 * A disk that is scanned is opened by its path in every cycle, and says by itself what is wrong.
 */
import type { CaptureDisk } from '../capture/contract.ts';
import type { Report } from '../control/report-schemas.ts';
import { messageOf } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';

interface Watched {
  readonly name: string;
  readonly capture: Pick<CaptureDisk, 'tracking' | 'source' | 'geometry'>;
}
type Fault = Report['problems'][number];

/** @returns a problem per disk whose image is another one; empty when all are as they were opened. Never rejects. */
export async function sourceFaults(files: Pick<Files, 'facts'>, disks: readonly Watched[]): Promise<Fault[]> {
  const faults: Fault[] = [];
  for (const { name, capture } of disks) {
    if (capture.tracking === 'scan' || capture.source === null) continue;
    const { path, inode } = capture.source;
    const said = await faultOf(files, path, inode, capture.geometry.size);
    if (said !== null) faults.push({ ...said, retryable: false, disk: name });
  }
  return faults;
}

async function faultOf(
  files: Pick<Files, 'facts'>,
  path: string,
  inode: bigint,
  size: number,
): Promise<Pick<Fault, 'code' | 'message' | 'remedy'> | null> {
  const keep = 'leave the agent running: it still has the disk open; copy it out through its NBD server';
  try {
    const facts = await files.facts(path);
    if (facts.kind === 'file' && facts.inode !== inode)
      return { code: 'bad-image', message: `${path} is another file than the one in use`, remedy: keep };
    if (facts.size >= size) return null;
    const message = `${path} was made smaller while in use: ${facts.size} bytes of ${size}`;
    return { code: 'shrunk', message, remedy: 'stop the machine; its last point before that is whole' };
  } catch (error) {
    return { code: 'not-found', message: `${path} can not be looked at any more: ${messageOf(error)}`, remedy: keep };
  }
}

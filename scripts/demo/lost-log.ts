/**
 * The agent's memory is lost: its change log is deleted while it is away, and the disk is changed behind its back. What follows is a
 * resync: everything is hashed, only what differs travels.
 */
import { open, rm } from 'node:fs/promises';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { mark } from './boot-sector.ts';
import type { DemoImage } from './image.ts';
import type { Site } from './site.ts';

const blockBytes = 65_536;
const sectorBytes = 512;
const changes = 16;

export interface LostLog {
  /** Blocks that were changed while the agent was away. */
  readonly blocksChanged: number;
  /** When that was done; wall clock. */
  readonly changedMs: number;
  /** Of the process server, before. */
  readonly comparedBefore: number;
}

export interface ResyncFigures {
  readonly blocksChanged: number;
  readonly blocksHashed: number;
  readonly checksumsCompared: number;
  readonly blocksSent: number;
}

async function compared(site: Site): Promise<number> {
  return (await site.metric('process-server', 'tidemark_process_server_checksums_compared_total')) ?? 0;
}

/** Writes to sectors spread over the part of the disk that is for writing. Returns how many blocks that changed. */
async function changeImage({ path: image, writableFrom, writableTo }: DemoImage): Promise<number> {
  const file = await open(image, 'r+');
  const blocks = new Set<number>();
  try {
    for (let change = 0; change < changes; change += 1) {
      const sectors = Math.floor(((writableTo - writableFrom) * change) / changes / sectorBytes);
      const offset = writableFrom + sectors * sectorBytes;
      await file.write(Buffer.alloc(sectorBytes, `change ${change} behind the agent’s back `), 0, sectorBytes, offset);
      blocks.add(Math.floor(offset / blockBytes));
    }
  } finally {
    await file.close();
  }
  return blocks.size;
}

/** Stops the agent, deletes the change log, changes the disk and its mark, starts the agent again. */
export async function loseChangeLog(site: Site, disk: string, image: DemoImage, newMark: string): Promise<LostLog> {
  await site.role('agent').stop();
  await rm(path.join(site.dir('agent'), `${disk}.hrl`));
  const blocksChanged = (await changeImage(image)) + (image.starts ? 1 : 0);
  if (image.starts) await mark(image.path, image.size, newMark);
  const changedMs = systemClock.wallMs();
  const comparedBefore = await compared(site);
  await site.startAgent();
  return { blocksChanged, changedMs, comparedBefore };
}

/** What the resync took, once its point is there. */
export async function resyncFigures(site: Site, { blocksChanged, comparedBefore }: LostLog): Promise<ResyncFigures> {
  const ofAgent = async (series: string): Promise<number> =>
    (await site.metric('agent', `tidemark_agent_${series}`)) ?? 0;
  return {
    blocksChanged,
    blocksHashed: await ofAgent('blocks_hashed_total'),
    checksumsCompared: (await compared(site)) - comparedBefore,
    blocksSent: Math.ceil((await ofAgent('payload_sent_bytes_total')) / blockBytes),
  };
}

/** What an agent of one disk may lose, or find changed, while it is away; and what its target reads meanwhile. */
import { closeSync, openSync, readFileSync, rmSync, truncateSync, utimesSync, writeFileSync, writeSync } from 'node:fs';
import { encodeHeader, newestHeader } from '../../src/capture/log-header.ts';
import { activityAt, activityBytes, headerAt, slotBytes } from '../../src/capture/log-layout.ts';
import type { Site } from './site.ts';

export type Loss =
  | 'leaves'
  | 'log'
  | 'both'
  | 'json'
  | 'state'
  | 'touched'
  | 'header'
  | 'activity'
  | "another disk's log"
  | 'half the leaves'
  | 'too small a disk';

/** Changes the change log where it lies. */
function rewriteLog(site: Site, change: (log: Buffer) => void): void {
  const file = `${site.state}/vd0.hrl`;
  const log = readFileSync(file);
  change(log);
  writeFileSync(file, log);
}

function withOwner(log: Buffer, owner: string): void {
  const slots = headerAt.map((at) => log.subarray(at, at + slotBytes));
  const header = newestHeader(slots, 'the log of the test');
  if (!header) throw new Error('a log has a header');
  for (const slot of slots) encodeHeader({ ...header, owner }).copy(slot);
}

export function lose(site: Site, loss: Loss): void {
  if (loss === 'header') rewriteLog(site, (log) => headerAt.forEach((at) => (log[at + 20] = ~(log[at + 20] ?? 0))));
  if (loss === 'activity') rewriteLog(site, (log) => activityAt.forEach((at) => log.fill(0, at, at + activityBytes)));
  if (loss === "another disk's log") rewriteLog(site, (log) => withOwner(log, 'another/vd0'));
  if (loss === 'half the leaves') truncateSync(`${site.state}/vd0.leaves`, 1024 * 32);
  if (loss === 'too small a disk') site.grow(0, 50 * site.blockSize); // Zeros: more blocks, and no other content.
  if (loss === 'leaves' || loss === 'both') rmSync(`${site.state}/vd0.leaves`);
  if (loss === 'log' || loss === 'both') rmSync(`${site.state}/vd0.hrl`);
  if (loss === 'json') rmSync(`${site.state}/vd0.json`);
  if (loss === 'state') rmSync(site.state, { recursive: true });
  if (loss === 'touched') utimesSync(site.disk(0).image, new Date(), new Date(1_000_000_000_000));
}

/** Changes every 100th block of the image while no agent looks. Returns how many. */
export function changeBehind(site: Site): number {
  const fd = openSync(site.disk(0).image, 'r+');
  let changed = 0;
  // Nothing in the last node.
  for (let block = 7; block < 2 * 1024; block += 100, changed += 1)
    writeSync(fd, Buffer.from('behind'), 0, 6, block * site.blockSize + 99);
  closeSync(fd);
  site.disk(0).changedBehind();
  return changed;
}

/** Reads of what the target has stored, from now on. */
export function segmentReads(site: Site): () => number {
  const files = site.target?.files;
  if (!files) throw new Error('a target runs');
  let reads = 0;
  files.trouble = (operation, path) => {
    if (operation === 'read' && path.includes('/segments/')) reads += 1;
    return undefined;
  };
  return () => reads;
}

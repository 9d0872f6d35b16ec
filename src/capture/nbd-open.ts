/**
 * Opening a disk for capture: lock, image, change log, in this order; everything is undone when a step fails.
 *
 * Invariant: before the log is trusted or made, the image is synced. What another process, or this one before a kill, left in the page cache
 * would otherwise be committed elsewhere and could still be lost here. And what may only be in the page cache because an earlier sync
 * failed (hot regions, or all without a log) is dropped from it, so that what is read is what the disk has (C4).
 */
import * as path from 'node:path';
import { Backoff } from '../kit/backoff.ts';
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import { geometryOf } from '../disk/geometry.ts';
import type { File, FileFacts, Files } from '../posix/files.ts';
import { acquireLock, type Lock } from '../posix/lock.ts';
import { ChangeLog } from './change-log.ts';
import type { LogLoss } from './contract.ts';
import { DirtySets } from './dirty-sets.ts';
import { openImage } from './image.ts';
import { loadLog, type LoadedLog } from './log-load.ts';
import { layoutOf, logIdBytes, type LogLayout } from './log-layout.ts';
import { imageRecordOf, type LogState } from './log-header.ts';
import { buildLog, createLog, LogWriter, type CreateOptions } from './log-writer.ts';
import { NbdCapture } from './nbd-splitter.ts';

export interface NbdCaptureOptions {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  /** The disk image: a regular file or block device. */
  readonly image: string;
  /** The disk's name; names the change log too. */
  readonly name: string;
  /** Whose log it is; a log of another owner is foreign. Machine and disk, for example `web1/vda`. */
  readonly owner: string;
  /** Bytes. */
  readonly blockSize: number;
  /** The agent's state directory; made if missing. */
  readonly stateDirectory: string;
  /** Whether the agent's state knows of an earlier change log of this disk. Record `true` durably once this function resolved. */
  readonly hadLog: boolean;
  /** Takes the image for this process alone, or rejects with Problem `locked`. Default: `posix/lock.ts`, as an agent. */
  readonly lock?: (imagePath: string) => Promise<Lock>;
  readonly hotRegionsMax?: number;
  readonly copyBeforeWriteMemoryBytes?: number;
  readonly copyBeforeWriteScratchBytes?: number;
}

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** @throws Problem `bad-argument`, `not-found`, `bad-image`, `bad-geometry`, `locked`, `shrunk`, `wrong-version`. */
export async function openNbdCapture(options: NbdCaptureOptions): Promise<NbdCapture> {
  const { files, name, stateDirectory } = options;
  if (!namePattern.test(name)) {
    throw new Problem('bad-argument', `disk name ${JSON.stringify(name)} does not match ${namePattern.source}`, {
      remedy: 'choose a name like vda',
    });
  }
  const undo: (() => Promise<void>)[] = [];
  try {
    const image = await openImage(files, options.image, 'write');
    undo.push(() => image.close());
    const lock = await (options.lock ?? agentLock(options))(options.image);
    undo.push(() => lock.release());
    const layout = layoutOf(geometryOf(image.facts().size, options.blockSize));
    await image.datasync();
    await files.makeDirectory(stateDirectory);
    return await openOver(options, image, layout, lock);
  } catch (error) {
    for (const step of undo.reverse()) await step().catch(() => undefined);
    throw error;
  }
}

function agentLock({ files, clock }: NbdCaptureOptions): (imagePath: string) => Promise<Lock> {
  const since = new Date(clock.wallMs()).toISOString();
  return (imagePath) => acquireLock(files, clock, imagePath, { pid: process.pid, role: 'agent', since });
}

async function openOver(options: NbdCaptureOptions, image: File, layout: LogLayout, lock: Lock): Promise<NbdCapture> {
  const { files, name, stateDirectory } = options;
  const logPath = path.join(stateDirectory, `${name}.hrl`);
  const sets = new DirtySets(layout);
  const { writer, loss } = await openWriter(options, logPath, layout, sets, image);
  const hotRegionsMax = options.hotRegionsMax ?? limits.capture.hotRegionsMax;
  let capture: NbdCapture | null = null;
  const syncImage = async (): Promise<void> => {
    invariant(capture, 'regions cool only after the first write');
    await capture.syncImage();
  };
  const { logRetryBaseMs: baseMs, logRetryMaxMs: maxMs } = limits.capture;
  const log = new ChangeLog({
    files,
    path: logPath,
    writer,
    hotRegionsMax,
    syncImage,
    clock: options.clock,
    backoff: new Backoff({ baseMs, maxMs, random: options.random }),
    build: () => buildLog(logOptions(options, logPath, layout, sets, image.facts(), 'open')),
  });
  const finish = async (synced: boolean): Promise<void> => {
    const facts = synced ? image.facts() : null;
    try {
      const clean = await log.close(facts);
      if (!clean && facts && log.failure !== null) await startAnew(options, logPath, layout, sets, facts);
    } finally {
      await image.close();
      await lock.release();
    }
  };
  const openScratch = async (): Promise<File> => {
    const scratchPath = path.join(stateDirectory, `${name}.scratch`);
    await files.remove(scratchPath);
    const scratch = await files.open(scratchPath, 'exclusive', 0o600);
    await files.remove(scratchPath);
    return scratch;
  };
  const memoryBytesMax = options.copyBeforeWriteMemoryBytes ?? limits.capture.copyBeforeWriteMemoryBytes;
  const scratchBytesMax = options.copyBeforeWriteScratchBytes ?? limits.capture.copyBeforeWriteScratchBytes;
  capture = new NbdCapture(
    {
      name,
      clock: options.clock,
      layout,
      image,
      sets,
      logLoss: loss,
      hotRegionsMax,
      memoryBytesMax,
      scratchBytesMax,
      openScratch,
      finish,
    },
    log,
  );
  return capture;
}

/** The log continued, or a new one with everything marked. */
async function openWriter(
  options: NbdCaptureOptions,
  logPath: string,
  layout: LogLayout,
  sets: DirtySets,
  imageFile: File,
): Promise<{ writer: LogWriter; loss: LogLoss | null }> {
  const { files, owner, hadLog } = options;
  const image = imageFile.facts();
  const loaded = await loadLog({
    files,
    path: logPath,
    owner,
    layout,
    image,
    hadLog,
    masks: (region, masks) => sets.addMasks(region, masks),
    wholeRegion: (region) => sets.markRegion(region),
  });
  if (loaded.kind === 'log') {
    for (const region of loaded.activity.regions)
      imageFile.dropCacheSync(region * layout.regionBytes, layout.regionBytes);
    return { writer: await continueLog(loaded, layout, sets, image), loss: null };
  }
  const { loss, clean } = loaded;
  if (loss !== 'new' && !clean) imageFile.dropCacheSync(0, image.size);
  if (loss === 'damaged' || loss === 'foreign') await files.rename(logPath, `${logPath}.${loss}`);
  sets.markAll();
  return { writer: await createLog(logOptions(options, logPath, layout, sets, image, 'open')), loss };
}

/** Hot regions of the last run become cold: their chunks are written whole while the old activity slot still names them. */
async function continueLog(
  loaded: LoadedLog & { kind: 'log' },
  layout: LogLayout,
  sets: DirtySets,
  image: FileFacts,
): Promise<LogWriter> {
  const { file, header, activity, rewrite } = loaded;
  const writer = new LogWriter({
    file,
    layout,
    header,
    activitySequence: activity.sequence,
    unionOf: (region, into) => sets.unionOf(region, into),
  });
  try {
    await writer.writeChunks(rewrite);
    await writer.sync();
    await writer.writeActivity(() => new Uint32Array(0));
    await writer.writeHeader('open', imageRecordOf(image));
    return writer;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A log, new with an id of its own, of what the sets hold. */
function logOptions(
  options: NbdCaptureOptions,
  logPath: string,
  layout: LogLayout,
  sets: DirtySets,
  image: FileFacts,
  state: LogState,
): CreateOptions {
  const { files, owner, random } = options;
  const unionOf = (region: number, into: Uint16Array): void => sets.unionOf(region, into);
  return { files, path: logPath, owner, logId: random.bytes(logIdBytes), layout, state, image, unionOf };
}

/** A log that failed was disowned; a stop in order may still leave a true one. Without it the next start compares by checksum. */
async function startAnew(
  options: NbdCaptureOptions,
  logPath: string,
  layout: LogLayout,
  sets: DirtySets,
  image: FileFacts,
): Promise<void> {
  try {
    const writer = await createLog(logOptions(options, logPath, layout, sets, image, 'clean'));
    await writer.close();
  } catch {
    await options.files.remove(`${logPath}.new`).catch(() => undefined);
  }
}

/**
 * What the write splitter costs a writer: fio over NBD against an image that is served as it is, against the same image under capture, and under
 * capture while it is cut again and again. All of one machine's page cache and processor: compare within one run, not between runs.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { makeCutAll } from '../../src/capture/cut.ts';
import { openImage, readWhole, zeroRange } from '../../src/capture/image.ts';
import { openNbdCapture, type NbdCaptureOptions } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import type { Backend } from '../../src/nbd/backend.ts';
import { serveNbd } from '../../src/nbd/server.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { runToolOk } from '../tools.ts';

export interface WritePathFigures {
  readonly operationsPerSecond: number;
  readonly bytesPerSecond: number;
  /** Of one write as the client sees it, milliseconds. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** How long each cut held writers, milliseconds, ascending; empty where none was made. */
  readonly heldMs: readonly number[];
}

/** `few slots`: tracked, with so few hot regions that most random writes have to wait until another region is cold. */
export type WritePath = 'untracked' | 'tracked' | 'tracked and cut' | 'few slots';

const fewSlots = 16;

export interface WritePathLoad {
  readonly blockBytes: number;
  readonly depth: number;
  readonly rw: 'write' | 'randwrite';
  readonly seconds: number;
  /** Further arguments of fio. */
  readonly more?: readonly string[];
}

export const imageBytes = 256 * MiB;

/** A disk under capture on the real file system, whole image in the page cache, everything committed. */
export async function capturedDisk(more: Partial<NbdCaptureOptions> = {}): Promise<{
  capture: NbdCapture;
  image: string;
  directory: string;
  end: () => Promise<void>;
}> {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-write-path-'));
  const image = path.join(directory, 'vda.raw');
  const file = await open(image, 'w');
  for (let at = 0; at < imageBytes; at += MiB) await file.write(Buffer.alloc(MiB, 7), 0, MiB, at);
  await file.sync();
  await file.close();
  const capture = await openNbdCapture({
    files: posixFiles,
    clock: systemClock,
    random: systemRandom,
    image,
    name: 'vda',
    owner: 'web1/vda',
    blockSize: 65_536,
    stateDirectory: path.join(directory, 'state'),
    hadLog: false,
    ...more,
  });
  await forgetAll(capture);
  const end = async (): Promise<void> => {
    await capture.close();
    await rm(directory, { recursive: true, force: true });
  };
  return { capture, image, directory, end };
}

async function forgetAll(capture: NbdCapture): Promise<void> {
  capture.swap();
  capture.endSending();
  await capture.forget();
}

/**
 * A clock that stands still while others have the processor: a hold is then as long as what the product does in it. Between two looks at it,
 * what the thread waited that waited longest, ready to run, does not count, and neither does the looking.
 */
function clockOfOwnTime(): Clock {
  const waitedMs = new Map<string, number>();
  let notCountedMs = 0;
  const longestWaitMs = (): number => {
    let longest = 0;
    for (const thread of readdirSync('/proc/self/task')) {
      // Documentation/scheduler/sched-stats.rst in Linux.
      const ms = Number(readFileSync(`/proc/self/task/${thread}/schedstat`, 'latin1').split(' ')[1]) / 1e6;
      longest = Math.max(longest, ms - (waitedMs.get(thread) ?? 0));
      waitedMs.set(thread, ms);
    }
    return longest;
  };
  const monotonicMs = (): number => {
    const atMs = systemClock.monotonicMs();
    notCountedMs += longestWaitMs();
    const foundMs = atMs - notCountedMs;
    notCountedMs += systemClock.monotonicMs() - atMs;
    return foundMs;
  };
  return { ...systemClock, monotonicMs };
}

/** Cuts, reads a few blocks of the cut, commits; until told to stop. Answers how long each cut held writers, milliseconds of its own time, ascending. */
export async function cutAgainAndAgain(
  captures: readonly NbdCapture[],
  stopped: (cuts: number) => boolean,
): Promise<number[]> {
  const cutAll = makeCutAll(clockOfOwnTime());
  const heldMs: number[] = [];
  const into = Buffer.alloc(captures[0]?.geometry.blockSize ?? 0);
  while (!stopped(heldMs.length)) {
    const report = await cutAll(captures, limits.capture.cutDrainMs);
    if (report) heldMs.push(report.heldMs);
    for (const capture of captures) {
      let read = 0;
      for (const [block] of capture.sending()) {
        if ((read += 1) > 8) break;
        await capture.readBlocks(block, into);
      }
      if (report) capture.endSending();
      await capture.forget();
    }
    await systemClock.sleep(5);
  }
  return heldMs.sort((a, b) => a - b);
}

/** The value below which `share` of the ascending `values` lie. */
export function percentile(values: readonly number[], share: number): number {
  return values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? NaN;
}

/** The image with nothing in between. */
async function plainImage(image: string): Promise<{ backend: Backend; end: () => Promise<void> }> {
  const file = await openImage(posixFiles, image, 'write');
  const backend: Backend = {
    size: imageBytes,
    readOnly: false,
    multiConnection: true,
    preferredBytes: 4096,
    read: (into, offset) => readWhole(file, into, offset),
    write: async (data, offset, fua) => {
      await file.write([data], offset);
      if (fua) await file.datasync();
    },
    flush: () => file.datasync(),
    zero: (offset, length, _, mayUnmap) => zeroRange(file, offset, length, mayUnmap),
    extents: (_, length) => Promise.resolve([{ length, zero: false, hole: false }]),
  };
  return { backend, end: () => file.close() };
}

/** Runs fio for `load.seconds` over one of the paths. */
export async function measureWritePath(way: WritePath, load: WritePathLoad): Promise<WritePathFigures> {
  const disk = await capturedDisk(way === 'few slots' ? { hotRegionsMax: fewSlots } : {});
  const plain = way === 'untracked' ? await plainImage(disk.image) : null;
  const server = await serveNbd({
    exports: new Map([['disk', plain?.backend ?? disk.capture]]),
    listen: { unixPath: path.join(disk.directory, 'nbd') },
    clock: systemClock,
    files: posixFiles,
  });
  let stopped = false;
  try {
    const cutting = way === 'tracked and cut' ? cutAgainAndAgain([disk.capture], () => stopped) : Promise.resolve([]);
    const output = await runToolOk('fio', fioArguments(server.uri('disk'), load), { cwd: disk.directory });
    stopped = true;
    return figuresOf(output, await cutting);
  } finally {
    stopped = true;
    await server.close();
    await plain?.end();
    await disk.end();
  }
}

function fioArguments(uri: string, load: WritePathLoad): string[] {
  const { blockBytes, depth, rw, seconds, more = [] } = load;
  const shape = [`--rw=${rw}`, `--bs=${blockBytes}`, `--iodepth=${depth}`, `--size=${imageBytes}`, '--randrepeat=1'];
  const time = ['--time_based', `--runtime=${seconds}`, '--ramp_time=0.3'];
  return ['--name=w', '--ioengine=nbd', `--uri=${uri}`, ...shape, ...time, '--output-format=json', ...more];
}

function figuresOf(fioOutput: string, heldMs: readonly number[]): WritePathFigures {
  // Its NBD engine says on stdout, too, that it is connected.
  const { jobs } = JSON.parse(fioOutput.slice(fioOutput.indexOf('{'))) as {
    jobs: [{ write: { iops: number; bw_bytes: number; clat_ns: { percentile: Record<string, number> } } }];
  };
  const { iops, bw_bytes: bytesPerSecond, clat_ns: latency } = jobs[0].write;
  const at = (share: string): number => (latency.percentile[share] ?? NaN) / 1e6;
  return { operationsPerSecond: iops, bytesPerSecond, p50Ms: at('50.000000'), p99Ms: at('99.000000'), heldMs };
}

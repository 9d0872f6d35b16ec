/** A capture over a simulated file system, and what tests ask of it. */
import type { Clock } from '../../src/kit/clock.ts';
import { systemClock } from '../../src/kit/clock.ts';
import type { Random } from '../../src/kit/random.ts';
import { MiB } from '../../src/limits.ts';
import { openNbdCapture, type NbdCaptureOptions } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { Dice, SimFiles } from './sim-files.ts';

export const imagePath = '/images/vda.raw';
const stateDirectory = '/state';
export const logPath = '/state/vda.hrl';
export const blockSize = 65_536;
export const pageSize = 4096;

/** Deadlines never come: the simulation decides what is slow. */
export const stillClock: Clock = { ...systemClock, after: () => ({ cancel: () => undefined }) };

function diceRandom(dice: Dice): Random {
  return {
    bytes: (length) => Buffer.from(Array.from({ length }, () => dice.below(256))),
    fraction: () => dice.fraction(),
  };
}

const noLock: NonNullable<NbdCaptureOptions['lock']> = () => Promise.resolve({ release: () => Promise.resolve() });

export function openSim(files: SimFiles, hadLog: boolean, more: Partial<NbdCaptureOptions> = {}): Promise<NbdCapture> {
  return openNbdCapture({
    files,
    clock: stillClock,
    random: diceRandom(files.dice),
    image: imagePath,
    name: 'vda',
    owner: 'web1/vda',
    blockSize,
    stateDirectory,
    hadLog,
    lock: noLock,
    ...more,
  });
}

export function simWithImage(bytes = 12 * MiB, seed = 1): SimFiles {
  const files = new SimFiles(new Dice(seed));
  files.plant(imagePath, Buffer.alloc(bytes));
  return files;
}

/** Lets everything that can go on go on. */
export async function turns(count = 50): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Swaps and forgets: everything counts as committed. */
export async function commitAll(capture: NbdCapture): Promise<void> {
  capture.swap();
  capture.endSending();
  await capture.forget();
}

/** Dirty blocks of current with their masks. */
export function dirty(capture: NbdCapture): Map<number, number> {
  const found = new Map<number, number>();
  for (let block = 0; block < capture.geometry.blockCount; block += 1) {
    const mask = capture.currentMask(block);
    if (mask !== 0) found.set(block, mask);
  }
  return found;
}

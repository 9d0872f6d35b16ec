/** A capture over a simulated file system, and what tests ask of it. */
import type { Clock } from '../../src/kit/clock.ts';
import { systemClock } from '../../src/kit/clock.ts';
import type { Random } from '../../src/kit/random.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { openNbdCapture, type NbdCaptureOptions } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { Dice, SparseBytes } from '../simulated-bytes.ts';
import type { Fault, Operation } from '../simulated-file.ts';
import { SimulatedFiles } from '../simulated-files.ts';

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

export function openSim(
  files: SimulatedFiles,
  hadLog: boolean,
  more: Partial<NbdCaptureOptions> = {},
): Promise<NbdCapture> {
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

export function simWithImage(bytes = 12 * MiB, seed = 1): SimulatedFiles {
  const files = new SimulatedFiles(['/images', stateDirectory]);
  files.dice = new Dice(seed);
  files.plant(imagePath, new SparseBytes(undefined, bytes));
  return files;
}

/** What a reader sees of a file now. */
export function peek(files: SimulatedFiles, filePath: string): Buffer {
  return files.content(filePath).bytes();
}

/** Writes all of a file behind everybody's back, durably. */
export function overwrite(files: SimulatedFiles, filePath: string, bytes: Uint8Array): void {
  if (files.has(filePath)) files.overwrite(filePath, SparseBytes.of(bytes));
  else files.plant(filePath, SparseBytes.of(bytes));
}

/** The power fails; operations of the old machine never end. */
export function losePower(files: SimulatedFiles): SimulatedFiles {
  const { dice, pieceBytes, punches } = files;
  const after = files.afterPowerLoss(dice);
  files.dead = true;
  return Object.assign(after, { dice, pieceBytes, punches });
}

/** The process is killed; what it did wrong goes with it. */
export function kill(files: SimulatedFiles): SimulatedFiles {
  return Object.assign(files.kill(), { fault: () => null });
}

/** Operations that `when` names wait for `until` before anything of them is done. */
export function hold(
  files: SimulatedFiles,
  until: Promise<unknown>,
  when: (operation: Operation, filePath: string) => boolean,
): void {
  const begin = files.begin.bind(files);
  files.begin = async (operation, filePath): Promise<Fault | null> => {
    if (when(operation, filePath)) await until;
    return begin(operation, filePath);
  };
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

/** Who dirties a disk that is measured, through its NBD server: a list of writes as fast as they are taken, or writes at a steady rate. */
import { systemClock } from '../../src/kit/clock.ts';
import type { NbdClient } from '../../src/nbd/client.ts';
import { streamOf } from './content.ts';

export interface PlannedWrite {
  readonly offset: number;
  readonly length: number;
}

/** Whole numbers below a bound, the same for the same seed. */
export function numbersFrom(seed: number): (below: number) => number {
  const random = streamOf(seed, 'writes');
  return (below) => random(4).readUInt32LE(0) % below;
}

/** The numbers from 0 to `count` - 1 in random order. */
export function shuffled(count: number, below: (bound: number) => number): number[] {
  const order = Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last -= 1) {
    const other = below(last + 1);
    [order[last], order[other]] = [order[other] ?? 0, order[last] ?? 0];
  }
  return order;
}

/** A piece of `content` that differs from write to write. */
function pieceOf(content: Buffer, number: number, length: number): Buffer {
  const at = (number * 4_099) % (content.length - length);
  return content.subarray(at, at + length);
}

/** Writes all of them in this order, at most `depth` in flight. Rejects when one fails. */
export async function writeAll(
  disk: NbdClient,
  writes: readonly PlannedWrite[],
  content: Buffer,
  depth: number,
): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let number = next++; number < writes.length; number = next++) {
      const { offset, length } = writes[number] ?? { offset: 0, length: 0 };
      await disk.write(pieceOf(content, number, length), offset);
    }
  };
  await Promise.all(Array.from({ length: depth }, lane));
}

export interface SteadyPlan {
  readonly bytesPerSecond: number;
  readonly seconds: number;
  readonly writeBytes: number;
  readonly content: Buffer;
  readonly seed: number;
}

export interface SteadyWrites {
  /** Per disk: when each write was answered, milliseconds since the Unix epoch, in the order of the answers. */
  readonly answeredMs: readonly (readonly number[])[];
  /** Of all disks together; below the plan's where the disks did not take more. */
  readonly bytesPerSecond: number;
}

const inFlightMax = 256;
const pageBytes = 4096;

/** Writes at random places, whole pages, to all disks in turn; never ahead of the rate, and behind it only while `inFlightMax` writes wait for their answer. */
export async function writeSteadily(disks: readonly NbdClient[], plan: SteadyPlan): Promise<SteadyWrites> {
  const { bytesPerSecond, seconds, writeBytes, content, seed } = plan;
  const below = numbersFrom(seed);
  const answeredMs: number[][] = disks.map(() => []);
  const started = performance.now();
  let [issued, inFlight] = [0, 0];
  let failure: unknown = null;
  const issue = (): void => {
    const index = issued % disks.length;
    const disk = disks[index];
    if (!disk) return;
    const offset = below(Math.floor((disk.size - writeBytes) / pageBytes) + 1) * pageBytes;
    const answered = disk.write(pieceOf(content, issued, writeBytes), offset);
    issued += 1;
    inFlight += 1;
    answered.then(
      () => {
        inFlight -= 1;
        answeredMs[index]?.push(systemClock.wallMs());
      },
      (error: unknown) => {
        failure ??= error;
      },
    );
  };
  const secondsGone = (): number => (performance.now() - started) / 1000;
  while (failure === null && (secondsGone() < seconds || inFlight > 0)) {
    const due = Math.floor((Math.min(secondsGone(), seconds) * bytesPerSecond) / writeBytes);
    while (secondsGone() < seconds && issued < due && inFlight < inFlightMax) issue();
    await systemClock.sleep(1);
  }
  if (failure !== null) throw failure instanceof Error ? failure : new Error('a write failed');
  return { answeredMs, bytesPerSecond: (issued * writeBytes) / Math.max(seconds, secondsGone()) };
}

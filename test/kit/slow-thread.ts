/** A thread that takes its time, as one that loads native modules does: to begin, and for each task. It counts in shared memory: begun, tasks done. */
import { workerData } from 'node:worker_threads';

const counts = workerData as Int32Array;
const never = new Int32Array(new SharedArrayBuffer(4));
const ms = 150;

Atomics.wait(never, 0, 0, ms);
Atomics.add(counts, 0, 1);

export default function task(what: number): number {
  Atomics.wait(never, 0, 0, ms);
  Atomics.add(counts, 1, 1);
  return what;
}

/** Threads are not terminated while they begin or work: a native module would take the process with it. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { ThreadPool } from '../../src/kit/thread-pool.ts';

const filename = fileURLToPath(new URL('./slow-thread.ts', import.meta.url));

function pool(minThreads: number): { readonly threads: ThreadPool<number, number>; readonly counts: Int32Array } {
  const counts = new Int32Array(new SharedArrayBuffer(8));
  return { counts, threads: new ThreadPool({ filename, minThreads, maxThreads: 2, workerData: counts }) };
}

describe('threads that are ended', () => {
  it('have begun, when they were made at once', async () => {
    const { threads, counts } = pool(2);
    expect(threads.threads).toBe(2);
    await Promise.all([threads.end(), threads.end()]);
    expect([...counts]).toEqual([2, 0]);
    expect(threads.threads).toBe(0);
  });

  it('have begun, when they were made for a task, and all tasks are done', async () => {
    const { threads, counts } = pool(0);
    const tasks = [1, 2, 3].map((each) => threads.run(each));
    await threads.end();
    expect(await Promise.all(tasks)).toEqual([1, 2, 3]);
    expect(counts[1]).toBe(3);
    await expect(threads.run(4)).rejects.toMatchObject({ code: 'shutting-down', retryable: true });
    expect(threads.threads).toBe(0);
  });

  it('are waited for by a process that waits for nothing else', async () => {
    const source = new URL('../../src/kit/thread-pool.ts', import.meta.url).href;
    const program = `import { ThreadPool } from ${JSON.stringify(source)};
    const workerData = new Int32Array(new SharedArrayBuffer(8));
    const threads = new ThreadPool({ filename: ${JSON.stringify(filename)}, minThreads: 2, maxThreads: 2, workerData });
    await threads.end();
    console.log(workerData[0]);`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program]);
    expect(stdout).toBe('2\n');
  });
});

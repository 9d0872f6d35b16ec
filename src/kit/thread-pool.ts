/**
 * Worker threads that end without harm. One that is terminated while it loads a native module, or in the middle of a call into one, takes the whole process
 * with it: the module finds that it may not run JavaScript any more, and aborts. So before threads are terminated
 *
 *  1. each has begun, which it says with its first message (of those that Piscina makes at once it is believed from the start), and
 *  2. all that was handed in is done. Nothing more is taken meanwhile.
 */
import { once } from 'node:events';
import type { Transferable, Worker } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { Problem } from './problem.ts';

type Settings = Omit<NonNullable<ConstructorParameters<typeof Piscina>[0]>, 'atomics'>;

interface RunOptions {
  /** Of the worker's export; `default` unless told otherwise. */
  readonly name?: string;
  readonly transferList?: Transferable[];
}

export class ThreadPool<Task, Outcome> {
  readonly #piscina: Piscina<Task, Outcome>;
  /** Ids of threads. */
  readonly #begun = new Set<number>();
  readonly #tasks = new Set<Promise<unknown>>();
  #ended: Promise<void> | null = null;

  constructor(settings: Settings) {
    // `sync` lets a worker block its event loop between tasks; memory then peaks four times as high.
    this.#piscina = new Piscina<Task, Outcome>({ ...settings, atomics: 'async' });
    const first = new Map(this.#piscina.threads.map((thread) => [thread.threadId, thread]));
    for (const [id, thread] of first) thread.once('message', () => this.#begun.add(id));
    this.#piscina.on('workerCreate', ({ id }: { readonly id: number }) => {
      if (!first.has(id)) this.#begun.add(id);
    });
  }

  get threads(): number {
    return this.#piscina.threads.length;
  }

  /** @throws Problem `shutting-down`; what the task throws. */
  async run(task: Task, options: RunOptions = {}): Promise<Outcome> {
    if (this.#ended) throw new Problem('shutting-down', 'the threads were ended', { retryable: true });
    const running = this.#piscina.run(task, options);
    this.#tasks.add(running);
    try {
      return await running;
    } finally {
      this.#tasks.delete(running);
    }
  }

  /** Ends the threads. Idempotent. */
  end(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  async #end(): Promise<void> {
    await Promise.allSettled(this.#tasks); // 2
    for (const thread of this.#piscina.threads) {
      const { threadId: id } = thread; // −1 of one that is gone.
      if (id !== -1 && !this.#begun.has(id)) await untilBegun(thread); // 1
    }
    await this.#piscina.destroy();
  }
}

async function untilBegun(thread: Worker): Promise<void> {
  // Perhaps nothing else keeps this process alive.
  thread.ref();
  await Promise.race([once(thread, 'message'), once(thread, 'exit')]).catch(() => undefined);
}

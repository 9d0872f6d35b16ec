/**
 * Hooks around the cut of an app-consistent point: two programs of the operator's, named by their paths, run without arguments and without a
 * shell (a script names its own in its first line). What they are told stands in their environment, which is otherwise clean:
 *
 *   TIDEMARK_HOOK        pre | post
 *   TIDEMARK_MACHINE     name of the machine
 *   TIDEMARK_POINT_KIND  app
 *   PATH                 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
 *
 * `pre` makes the applications quiet (flushes a database, begins its backup mode); only exit code 0 says that it worked. `post` undoes it.
 * It runs after every `pre` that was started, also one that failed or was killed, and again until it exits with 0, also after a restart of the
 * agent. So it must do no harm when there is nothing to undo. A hook must not freeze the file system that holds the agent's own directory.
 */
import type { Clock } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { runProgram, whyNotExecutable, type ProgramEnd } from '../posix/program.ts';

export interface HookOptions {
  readonly which: 'pre' | 'post';
  /** Absolute. */
  readonly path: string;
  readonly machine: string;
  readonly timeoutMs: number;
  readonly clock: Clock;
}

export interface HookRun {
  readonly ok: boolean;
  /** What happened, for the evidence or the error: "pre hook /x exited 0 in 5 ms". */
  readonly text: string;
}

/** The configuration key a hook is named by. */
const keyOf = { pre: 'agent.preHook', post: 'agent.postHook' } as const;

export class Hook {
  readonly #options: HookOptions;

  private constructor(options: HookOptions) {
    this.#options = options;
  }

  /** @throws Problem `bad-config`: it can not be run. */
  static async of(options: HookOptions): Promise<Hook> {
    const { which, path } = options;
    const why = await whyNotExecutable(path);
    if (why === null) return new Hook(options);
    throw new Problem('bad-config', `${keyOf[which]}: ${path} ${why}`, {
      remedy: `name a program that this agent may run (chmod +x), or leave ${keyOf[which]} out`,
    });
  }

  /** Never rejects. Ended, with all it started, at its deadline or when `signal` aborts. */
  async run(signal: AbortSignal): Promise<HookRun> {
    const { path, which, machine, timeoutMs, clock } = this.#options;
    const end = await runProgram({
      path,
      environment: {
        TIDEMARK_HOOK: which,
        TIDEMARK_MACHINE: machine,
        TIDEMARK_POINT_KIND: 'app',
        PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      },
      timeoutMs,
      graceMs: limits.agent.hookGraceMs,
      signal,
      clock,
    });
    const ok = end.kind === 'exited' && end.code === 0;
    return { ok, text: `${which} hook ${path} ${this.#told(end)}` };
  }

  #told(end: ProgramEnd): string {
    const { timeoutMs } = this.#options;
    switch (end.kind) {
      case 'exited':
        return `exited ${end.code} in ${Math.round(end.ms)} ms${end.code === 0 ? '' : quoted(end.said)}`;
      case 'killed':
        return `was ended by ${end.signal} after ${Math.round(end.ms)} ms${quoted(end.said)}`;
      case 'not-started':
        return `could not be started: ${end.reason}`;
      case 'ended': {
        const killed = end.gone ? 'was killed with all it started' : 'was killed, and hangs in the kernel';
        if (end.why === 'abort') return `${killed}, because the agent is stopping`;
        const remedy = 'make it quicker, or raise agent.hookTimeoutSeconds';
        return `did not end within ${timeoutMs / 1000} s and ${killed} (${remedy})${quoted(end.said)}`;
      }
    }
  }
}

function quoted(said: string): string {
  return said === '' ? '' : `: ${said}`;
}

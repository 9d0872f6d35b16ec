/**
 * Signals. The first SIGINT or SIGTERM ends gracefully, within a deadline; the second one at once. A role that was asked to
 * end and did has exit code 0; a command that was cut short, or a role that did not end in time, has `interrupted`.
 */
import { isProblem, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { CliContext } from './context.ts';
import { printJson, say } from './output.ts';
import type { Running } from './roles.ts';

interface Signals {
  readonly first: Promise<void>;
  readonly second: Promise<void>;
  stop(): void;
}

function listen(context: CliContext): Signals {
  const first = Promise.withResolvers<undefined>();
  const second = Promise.withResolvers<undefined>();
  let count = 0;
  const stop = context.onSignal(() => {
    count += 1;
    (count === 1 ? first : second).resolve(undefined);
  });
  return { first: first.promise, second: second.promise, stop };
}

const interrupted = (): Problem =>
  new Problem('interrupted', 'ended by a signal before it was done', { remedy: 'start it again', retryable: true });

/** Closes within the deadline. @returns false when the deadline passed or a second signal came. */
async function closeInTime(context: CliContext, running: Running, signals: Signals): Promise<boolean> {
  const deadline = new AbortController();
  const late = context.clock.sleep(limits.cli.closeMs, deadline.signal).then(
    () => false,
    () => false,
  );
  try {
    return await Promise.race([running.close().then(() => true), late, signals.second.then(() => false)]);
  } finally {
    deadline.abort();
  }
}

async function untilEnd(context: CliContext, running: Running, signals: Signals): Promise<void> {
  try {
    await Promise.race([running.ended, signals.first]);
  } catch (error) {
    await closeInTime(context, running, signals);
    throw error;
  }
  if (!(await closeInTime(context, running, signals))) context.exitWith('interrupted');
}

/** Runs a role until a signal comes or it ends. Says where it can be reached: on stderr, with `json` on stdout as one object. */
export async function serve(
  context: CliContext,
  what: string,
  json: boolean,
  start: () => Promise<Running>,
): Promise<void> {
  const { terminal } = context;
  const signals = listen(context);
  try {
    const running = await Promise.race([start(), signals.second]);
    if (!running) throw interrupted();
    for (const { what: part, where } of running.reachable) say(terminal, `tidemark ${what}: ${part} on ${where}`);
    if (json) printJson(terminal, { running: what, reachable: running.reachable });
    await untilEnd(context, running, signals);
  } finally {
    signals.stop();
  }
}

/** Runs a command that can be interrupted: the first signal aborts it, the second does not wait for it. */
export async function interruptible<T>(context: CliContext, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const signals = listen(context);
  const abort = new AbortController();
  void signals.first.then(() => abort.abort(interrupted()));
  try {
    return await Promise.race([
      work(abort.signal),
      signals.second.then((): never => {
        throw interrupted();
      }),
    ]);
  } catch (error) {
    // Whatever an aborted piece of work rejects with, it was the signal; it may know better what to do next.
    if (!abort.signal.aborted || (isProblem(error) && error.code === 'interrupted')) throw error;
    throw interrupted();
  } finally {
    signals.stop();
  }
}

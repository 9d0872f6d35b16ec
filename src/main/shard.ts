/** One shard of a process server: the same role, with its part of the memory, the workers and the spool; it speaks to control through its keeper (`shards.ts`). */
import type { Running } from '../cli/roles.ts';
import type { Report, ReportReply } from '../control/report-schemas.ts';
import { isProblem, messageOf } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { ControlLink } from './control-link.ts';
import type { Parts } from './parts.ts';
import { runProcessServer, type Shard } from './process-server.ts';
import type { FromShard, ShardPlan, ToShard } from './shard-messages.ts';

type Answered = (answer: ReportReply) => boolean;

function say(message: FromShard): void {
  // A keeper that is gone takes its shards with it.
  process.send?.(message, undefined, undefined, () => undefined);
}

export async function startShard(parts: Parts, { index, of, config }: ShardPlan): Promise<Running> {
  const elsewhere = Promise.withResolvers<(machine: string) => void>();
  const close = Promise.withResolvers<undefined>();
  let answered: Answered = () => false;
  process.on('message', (message: ToShard) => {
    switch (message.kind) {
      case 'elsewhere': {
        void elsewhere.promise.then((handle) => handle(message.machine));
        return;
      }
      case 'answer': {
        answered(message.answer);
        return;
      }
      case 'close': {
        close.resolve(undefined);
      }
    }
  });
  const shard: Shard = {
    ...{ index, of },
    link: linkThroughKeeper(parts, (handle) => (answered = handle)),
    came: (machine) => say({ kind: 'came', machine }),
    onElsewhere: (handle) => elsewhere.resolve(handle),
  };
  try {
    const running = await runProcessServer(parts, config, shard);
    say({ kind: 'ready', reachable: running.reachable });
    return { ...running, reachable: [], ended: Promise.race([running.ended, close.promise]) };
  } catch (error) {
    const { code, message, remedy } = isProblem(error)
      ? error
      : { code: 'internal', message: messageOf(error), remedy: '' };
    say({ kind: 'failed', code, message, remedy });
    throw error;
  }
}

/** What is reported goes to the keeper, which asks control once for all. */
function linkThroughKeeper({ clock }: Parts, onAnswer: (handle: Answered) => void): ControlLink {
  let stop = (): void => undefined;
  return {
    duties: () => Promise.reject(new Error('a process server has no duties')),
    reportEvery: (make, answered = () => false) => {
      onAnswer(answered);
      const send = async (): Promise<void> => {
        const report: Report = await make();
        if (report.role === 'process-server') say({ kind: 'report', report });
      };
      void send();
      const timer = clock.every(limits.control.reportEveryMs, () => void send());
      stop = () => timer.cancel();
    },
    close: () => stop(),
  };
}

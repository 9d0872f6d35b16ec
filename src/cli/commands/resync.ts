import type { Command } from 'commander';
import { clientConfig } from '../../config.ts';
import { localTimeIn } from '../../kit/local-time.ts';
import type { CliContext } from '../context.ts';
import { printJson, say } from '../output.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import type { ResyncReport } from '../roles.ts';

interface ResyncOptions extends Options {
  readonly disk?: readonly string[];
  readonly now?: boolean;
}

const agentNotes: Readonly<Record<ResyncReport['agent'], string>> = {
  connected: 'the agent hears of it within seconds',
  disconnected: 'the agent has no process server now: it begins when it has one again',
  silent: 'the agent does not report now: it is told as soon as it does',
  'never-seen': 'no agent has reported yet: it is told as soon as it does',
};

/** When the disks that do not begin at once do. */
function windowNote({ window, opensAtMs, timeZone }: ResyncReport): string {
  if (window === null) return 'at once (the policy has no window)';
  if (opensAtMs === null) return `at once (the window ${window} ${timeZone} is open)`;
  return `when the window ${window} opens, ${localTimeIn(timeZone).text(opensAtMs)}; --now does not wait for it`;
}

function* linesOf(report: ResyncReport): Generator<string> {
  const of = (now: boolean): string[] => report.disks.filter((disk) => disk.now === now).map(({ name }) => name);
  const [atOnce, inWindow] = [of(true), of(false)];
  const what = `${report.machine}: every block of`;
  if (atOnce.length > 0) yield `${what} ${atOnce.join(', ')} is compared with the replica at once`;
  if (inWindow.length > 0) yield `${what} ${inWindow.join(', ')} is compared with the replica ${windowNote(report)}`;
  yield agentNotes[report.agent];
}

/** Exit code 0 says that it was asked for and will not be forgotten; `status` says how far it is. */
export function addResync(program: Command, context: CliContext): void {
  const command = program
    .command('resync')
    .description('compare disks with their replica, block by block, and send what differs (exit code 0: asked for)');
  addJson(addConfigOptions(command, 'client'))
    .argument('<machine>', 'name of the machine')
    .option('--disk <names...>', 'only these disks')
    .option('--now', 'begin at once, whatever the window of the policy')
    .action(async (machine: string, options: ResyncOptions) => {
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const { disk: disks, now = false } = options;
      const report = await context.roles.resync({ ...client, machine, disks, now });
      if (options['json'] === true) printJson(context.terminal, report);
      else for (const line of linesOf(report)) say(context.terminal, line);
    });
}

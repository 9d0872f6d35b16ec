import { type Command, Option } from 'commander';
import { clientConfig } from '../../config.ts';
import { localTimeIn } from '../../kit/local-time.ts';
import { parseRateTable } from '../../kit/rate-table.ts';
import { Problem } from '../../kit/problem.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, checkedBy, type Options, sourcesOf } from '../options.ts';
import { bytesText, countText, printJson, printLine, say, timeText } from '../output.ts';
import type { ProcessServersReport } from '../placement-roles.ts';

interface ListOptions extends Options {
  readonly throttle?: string;
  readonly throttleTimeZone?: string;
}

function* linesOf({ processServers }: ProcessServersReport): Generator<string> {
  for (const one of processServers) {
    const { name, address, state, sessions, inFlightBytes, windowBytes, heardMs, machines, throttle } = one;
    const { processes, busyProcesses } = one;
    const busy = state === 'busy' && processes > 1 ? ` (${busyProcesses} of ${processes} processes)` : '';
    const load = `${countText(sessions, 'session')}, ${bytesText(inFlightBytes)} of ${bytesText(windowBytes)} in flight`;
    yield `${name}  ${address}  ${state === 'silent' ? `silent since ${timeText(heardMs)}` : `${state}${busy}, ${load}`}`;
    if (throttle) yield `  its limit: ${throttle.throttle} (${throttle.timeZone})`;
    if (machines.length > 0) yield `  ${machines.join(' ')}`;
  }
}

const limitOptions: readonly Option[] = [
  new Option(
    '--throttle <rates>',
    'what it may send to its target from now on, 8Mb/s or "mon-fri 08:00-18:00 8Mb/s; else unlimited", in place of what it is configured with; none: as it is configured',
  ).argParser(checkedBy((text) => text === 'none' || parseRateTable(text, 'UTC'))),
  new Option('--throttle-time-zone <zone>', 'time zone of that, by its IANA name').argParser(checkedBy(localTimeIn)),
];

export function addProcessServers(program: Command, context: CliContext): void {
  const command = program
    .command('process-servers')
    .description('list process servers, their load and their machines; with --throttle: limit one, within seconds');
  for (const option of limitOptions) command.addOption(option);
  addJson(addConfigOptions(command, 'client'))
    .argument('[name]', 'only this one')
    .action(async (name: string | undefined, options: ListOptions) => {
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const { throttle, throttleTimeZone } = options;
      if (throttle !== undefined || throttleTimeZone !== undefined) {
        if (name === undefined)
          throw new Problem('bad-argument', 'whose limit is not said', { remedy: 'name the process server' });
        const rates = throttle === 'none' ? null : throttle;
        await context.roles.limitProcessServer({ ...client, processServer: name, throttle: rates, throttleTimeZone });
        say(context.terminal, `${name} hears of its limit with its next report, within seconds`);
      }
      const all = (await context.roles.processServers(client)).processServers;
      const report = { processServers: name === undefined ? all : all.filter((one) => one.name === name) };
      if (options['json'] === true) printJson(context.terminal, report);
      else if (report.processServers.length > 0) for (const line of linesOf(report)) printLine(context.terminal, line);
      else
        say(context.terminal, `no process server${name === undefined ? '' : ` ${name}`} asked control for leases yet`);
    });
}

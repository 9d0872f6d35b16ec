import { type Command, Option } from 'commander';
import { clientConfig } from '../../config.ts';
import { limits } from '../../limits.ts';
import type { CliContext } from '../context.ts';
import { printJson } from '../output.ts';
import { addConfigOptions, addJson, type Options, sourcesOf, wholeNumber } from '../options.ts';
import { statusLines } from '../status-lines.ts';
import { watch } from '../watching.ts';

/** Exit code 1 when the answer to "am I protected" is no: health is critical. A watch ends with 0: it is a look, not a check. */
export function addStatus(program: Command, context: CliContext): void {
  const { watchSecondsMax, watchSecondsDefault } = limits.cli;
  const command = program
    .command('status')
    .description('am I protected, how far behind, and why (exit code 1: critical)')
    .addOption(new Option('--watch', 'draw it again and again, on a terminal, until Ctrl-C').conflicts('json'))
    .addOption(
      new Option('--every <seconds>', 'how often with --watch')
        .argParser(wholeNumber(1, watchSecondsMax))
        .default(watchSecondsDefault),
    );
  addJson(addConfigOptions(command, 'client'))
    .argument('[machine]', 'only this machine')
    .action(async (machine: string | undefined, options: Options & { readonly every: number }) => {
      const { terminal, roles } = context;
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const ask = () => roles.status({ ...client, machine });
      if (options['watch'] === true) {
        await watch(context, options.every * 1000, async () => statusLines(terminal, await ask()));
        return;
      }
      const report = await ask();
      if (report.health === 'critical') context.exitWith('check-failed');
      if (options['json'] === true) printJson(terminal, report);
      else terminal.stdout.write(`${statusLines(terminal, report).join('\n')}\n`);
    });
}

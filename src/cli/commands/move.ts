import type { Command } from 'commander';
import { clientConfig } from '../../config.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import { printJson, say } from '../output.ts';

interface MoveOptions extends Options {
  readonly to?: string;
}

/** Exit code 0 says that it was asked for; the agent goes there within seconds. */
export function addMove(program: Command, context: CliContext): void {
  const command = program
    .command('move')
    .description('have another process server take a machine over (exit code 0: asked for)');
  addJson(addConfigOptions(command, 'client'))
    .argument('<machine>', 'name of the machine')
    .option('--to <name>', 'process server that is to have it (default: the one with the most room)')
    .action(async (machine: string, options: MoveOptions) => {
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const report = await context.roles.move({ ...client, machine, to: options.to });
      if (options['json'] === true) {
        printJson(context.terminal, report);
        return;
      }
      const { from, to, address, changed } = report;
      const whence = from === null ? '' : ` from ${from}`;
      say(
        context.terminal,
        changed ? `${machine} moves${whence} to ${to} (${address})` : `${machine} is with ${to} already`,
      );
    });
}

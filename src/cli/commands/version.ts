import type { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { printJson, printLine } from '../output.ts';
import { addJson, type Options } from '../options.ts';

export function addVersion(program: Command, context: CliContext): void {
  addJson(program.command('version').description('print the version')).action((options: Options) => {
    if (options['json'] === true) printJson(context.terminal, { version: context.version });
    else printLine(context.terminal, context.version);
  });
}

import type { Command } from 'commander';
import { upConfig } from '../../config.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import { serve } from '../waiting.ts';

/** Addresses of the parts come from the configuration file or the environment: their flags would have the same names. */
export function addUp(program: Command, context: CliContext): void {
  const command = program
    .command('up')
    .description('run control API, process server and target together, for one recovery site');
  addJson(addConfigOptions(command, 'common')).action(async (options: Options) => {
    const config = upConfig(await sourcesOf(context, 'common', options));
    await serve(context, 'up', options['json'] === true, () => context.roles.startUp(config));
  });
}

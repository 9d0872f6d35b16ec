import type { Command } from 'commander';
import { targetConfig } from '../../config.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import { serve } from '../waiting.ts';

export function addTarget(program: Command, context: CliContext): void {
  const command = program.command('target').description('run a master target: it holds replicas and recovery points');
  addJson(addConfigOptions(command, 'target')).action(async (options: Options) => {
    const config = targetConfig(await sourcesOf(context, 'target', options));
    await serve(context, 'target', options['json'] === true, () => context.roles.startTarget(config));
  });
}

import type { Command } from 'commander';
import { controlConfig } from '../../config.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import { serve } from '../waiting.ts';

export function addControl(program: Command, context: CliContext): void {
  const command = program.command('control').description('run the control API');
  addJson(addConfigOptions(command, 'control')).action(async (options: Options) => {
    const config = controlConfig(await sourcesOf(context, 'control', options));
    await serve(context, 'control', options['json'] === true, () => context.roles.startControl(config));
  });
}

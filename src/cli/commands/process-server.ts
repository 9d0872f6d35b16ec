import type { Command } from 'commander';
import { processServerConfig } from '../../config.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import { serve } from '../waiting.ts';

export function addProcessServer(program: Command, context: CliContext): void {
  const command = program.command('process-server').description('run a process server: it seals what agents send');
  addJson(addConfigOptions(command, 'processServer')).action(async (options: Options) => {
    const config = processServerConfig(await sourcesOf(context, 'processServer', options));
    await serve(context, 'process-server', options['json'] === true, () => context.roles.startProcessServer(config));
  });
}

import type { Command } from 'commander';
import { processServerConfig } from '../../config.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import type { Roles } from '../roles.ts';
import { serve } from '../waiting.ts';

export function addProcessServer(program: Command, context: CliContext): void {
  const command = program.command('process-server').description('run a process server: it seals what agents send');
  addJson(addConfigOptions(command, 'processServer')).action(async (options: Options) => {
    const config = processServerConfig(await sourcesOf(context, 'processServer', options));
    await serve(context, 'process-server', options['json'] === true, () => context.roles.startProcessServer(config));
  });
  program
    .command('process-server-shard <plan>', { hidden: true })
    .description('one of several processes behind one port; started by process-server --shards')
    .action(async (plan: string) => {
      const parsed = JSON.parse(plan) as Parameters<Roles['startShard']>[0];
      await serve(context, 'process-server', false, () => context.roles.startShard(parsed));
    });
}

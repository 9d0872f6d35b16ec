import type { Command } from 'commander';
import { agentConfig } from '../../config.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, collectDisk, type Options, sourcesOf } from '../options.ts';
import { serve } from '../waiting.ts';

const diskHelp = 'name=NAME,image=FILE,socket=PATH (or port=NUMBER); once per disk (TIDEMARK_AGENT_DISKS, YAML)';

export function addAgent(program: Command, context: CliContext): void {
  const command = program
    .command('agent')
    .description("run an agent: it serves a machine's disks over NBD and replicates them");
  addJson(addConfigOptions(command, 'agent', ['disks']))
    .option('--disk <disk>', diskHelp, collectDisk)
    .action(async (options: Options) => {
      const config = agentConfig(await sourcesOf(context, 'agent', { ...options, disks: options['disk'] }));
      await serve(context, 'agent', options['json'] === true, () => context.roles.startAgent(config));
    });
}

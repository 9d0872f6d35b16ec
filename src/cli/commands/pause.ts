import type { Command } from 'commander';
import { clientConfig } from '../../config.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import { printJson, say } from '../output.ts';

function add(program: Command, context: CliContext, name: string, paused: boolean, description: string): void {
  const command = program.command(name).description(description);
  addJson(addConfigOptions(command, 'client'))
    .argument('<machine>', 'name of the machine')
    .action(async (machine: string, options: Options) => {
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const report = await context.roles.pause({ ...client, machine, paused });
      if (options['json'] === true) {
        printJson(context.terminal, report);
        return;
      }
      const state = paused ? 'paused: changes are captured, no points are made' : 'not paused';
      say(context.terminal, `${machine} ${report.changed ? 'is now' : 'was already'} ${state}`);
    });
}

export function addPause(program: Command, context: CliContext): void {
  add(program, context, 'pause', true, 'make no more points of a machine; what changes is captured all the same');
}

export function addResume(program: Command, context: CliContext): void {
  add(program, context, 'resume', false, 'make points of a paused machine again');
}

import type { Command } from 'commander';
import { clientConfig } from '../../config.ts';
import { confirm } from '../confirm.ts';
import type { CliContext } from '../context.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import { printJson, say } from '../output.ts';

interface UnprotectOptions extends Options {
  readonly deleteReplica?: boolean;
  readonly yes?: boolean;
  readonly json?: boolean;
}

export function addUnprotect(program: Command, context: CliContext): void {
  const command = program
    .command('unprotect')
    .description('disable the protection of a machine; its replica stays unless it is to be deleted');
  addJson(addConfigOptions(command, 'client'))
    .argument('<machine>', 'name of the machine')
    .option('--delete-replica', 'have the target delete every recovery point and the keys of the machine')
    .option('--yes', 'do not ask')
    .action(async (machine: string, options: UnprotectOptions) => {
      const { deleteReplica = false, yes = false } = options;
      const what = deleteReplica
        ? `every recovery point of ${machine} is deleted for good`
        : `${machine} is not replicated any more`;
      const client = clientConfig(await sourcesOf(context, 'client', options));
      await confirm(context, what, machine, yes);
      const report = await context.roles.unprotect({ ...client, machine, deleteReplica });
      if (options.json) printJson(context.terminal, report);
      else
        say(
          context.terminal,
          `${machine} is not protected any more; ${deleteReplica ? 'its target deletes the replica within seconds' : 'its replica stays with its target'}`,
        );
    });
}

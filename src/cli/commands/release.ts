import type { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { addJson, type Options } from '../options.ts';
import { printJson, say, timeText } from '../output.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';

export function addRelease(program: Command, context: CliContext): void {
  const command = program
    .command('release')
    .description(
      "at the target: let a process server without a lease have a machine that was held by one, for a site that gave up control; who still has it by a lease takes it back with control's next",
    );
  addJson(addVaultOptions(command))
    .argument('<machine>', 'name of the machine')
    .action(async (machine: string, options: Options) => {
      const report = await context.roles.releaseMachine({ ...(await vaultOf(context, options)), machine });
      if (options['json'] === true) {
        printJson(context.terminal, report);
        return;
      }
      const { from } = report;
      say(
        context.terminal,
        from === null
          ? `no lease holds ${machine} here; nothing was changed`
          : `${machine} is released: ${from.server ?? 'a process server'} had it since ${timeText(from.sinceMs)} by a lease, under epoch ${from.epoch}`,
      );
    });
}

import * as path from 'node:path';
import type { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { printJson, say } from '../output.ts';
import { addJson, type Options } from '../options.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';

interface KeyOptions extends Options {
  readonly to: string;
  readonly json?: boolean;
}

export function addKey(program: Command, context: CliContext): void {
  const key = program.command('key').description('the vault key of a target');
  const command = key
    .command('export')
    .description('write the recovery file, without which an empty machine can recover nothing');
  addJson(addVaultOptions(command))
    .requiredOption('--to <file>', 'file to write, mode 0600; keep it elsewhere')
    .action(async (options: KeyOptions) => {
      const vault = await vaultOf(context, options);
      const made = await context.roles.keyExport({ ...vault, to: path.resolve(options.to) });
      if (options.json) {
        printJson(context.terminal, made);
        return;
      }
      say(
        context.terminal,
        `recovery file of vault ${made.vaultId} written: ${made.file}; keep it away from this machine`,
      );
    });
}

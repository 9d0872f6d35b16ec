/** Options of the commands that read a target's directory by themselves, without any running role. */
import { type Command, Option } from 'commander';
import { targetConfig } from '../config.ts';
import { keysOf } from '../config/tables.ts';
import type { CliContext } from './context.ts';
import { type Options, sourcesOf } from './options.ts';
import type { Vault } from './roles.ts';

export function addVaultOptions(command: Command): Command {
  command.option('--config <file>', 'configuration file, YAML (TIDEMARK_CONFIG)');
  const variable = (wanted: string): string => keysOf('target').find(({ key }) => key === wanted)?.variable ?? '';
  return command
    .addOption(new Option('--data <dir>', `the target's directory (${variable('data')})`))
    .addOption(new Option('--vault <file>', `vault key or recovery file (${variable('vault')})`));
}

export async function vaultOf(context: CliContext, options: Options): Promise<Vault> {
  const { data, vault } = targetConfig(
    await sourcesOf(context, 'target', { config: options['config'], data: options['data'], vault: options['vault'] }),
  );
  return { data, vault };
}

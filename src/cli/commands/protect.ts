import { type Command, InvalidArgumentError, Option } from 'commander';
import { clientConfig } from '../../config.ts';
import { limits } from '../../limits.ts';
import type { CliContext } from '../context.ts';
import { printJson, say } from '../output.ts';
import { addConfigOptions, addJson, type Options, sourcesOf, wholeNumber } from '../options.ts';
import type { PolicyChange } from '../roles.ts';

interface ProtectOptions extends Options, PolicyChange {
  readonly disk: readonly string[];
  readonly policy: string;
  readonly json?: boolean;
}

const { blockBytesMin, blockBytesMax } = limits.disk;

function blockSize(text: string): number {
  const bytes = wholeNumber(blockBytesMin, blockBytesMax)(text);
  if (!Number.isInteger(Math.log2(bytes))) throw new InvalidArgumentError('Not a power of two.');
  return bytes;
}

export function addProtect(program: Command, context: CliContext): void {
  const command = program.command('protect').description('protect a machine: name its disks and its policy');
  addJson(addConfigOptions(command, 'client'))
    .argument('<machine>', 'name of the machine, as in its certificate')
    .requiredOption('--disk <names...>', 'names of its disks')
    .option('--policy <name>', 'name of the policy', 'default')
    .addOption(
      new Option('--interval-seconds <n>', 'change the policy: seconds between cuts').argParser(wholeNumber(1, 86_400)),
    )
    .addOption(new Option('--compression <codec>', 'change the policy').choices(['lz4', 'zstd', 'off']))
    .addOption(
      new Option('--block-size <bytes>', 'change the policy: bytes per block of new disks').argParser(blockSize),
    )
    .addOption(
      new Option('--retention-hours <n>', 'change the policy: how long points are kept').argParser(
        wholeNumber(1, 24 * 366),
      ),
    )
    .action(async (machine: string, options: ProtectOptions) => {
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const { intervalSeconds, compression, retentionHours, policy } = options;
      const change = { intervalSeconds, compression, retentionHours, blockSize: options.blockSize };
      const made = await context.roles.protect({ ...client, machine, disks: options.disk, policy, change });
      if (options.json) {
        printJson(context.terminal, made);
        return;
      }
      say(context.terminal, `${made.machine} is protected by policy ${made.policy}: ${made.disks.join(', ')}`);
    });
}

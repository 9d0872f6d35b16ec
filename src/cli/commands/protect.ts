import { type Command, InvalidArgumentError, Option } from 'commander';
import { clientConfig } from '../../config.ts';
import { parseDayWindow } from '../../kit/day-window.ts';
import { localTimeIn } from '../../kit/local-time.ts';
import { limits } from '../../limits.ts';
import type { CliContext } from '../context.ts';
import { printJson, say } from '../output.ts';
import { addConfigOptions, addJson, checkedBy, type Options, sourcesOf, wholeNumber } from '../options.ts';
import type { PolicyChange } from '../roles.ts';

interface ProtectOptions extends Options {
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

const windowText = checkedBy((text) => text === 'none' || parseDayWindow(text, 'UTC'));
const dirtyPercent = wholeNumber(1, 100);

/** One flag per key of a policy that can be changed here. */
const policyOptions: readonly Option[] = [
  new Option('--interval-seconds <n>', 'change the policy: seconds between cuts').argParser(wholeNumber(1, 86_400)),
  new Option('--compression <codec>', 'change the policy').choices(['lz4', 'zstd', 'off']),
  new Option('--block-size <bytes>', 'change the policy: bytes per block of new disks').argParser(blockSize),
  new Option('--retention-hours <n>', 'change the policy: how long points are kept').argParser(
    wholeNumber(1, 24 * 366),
  ),
  new Option(
    '--resync-window <window>',
    'change the policy: when a resync may read the disks, HH:MM-HH:MM, several with commas; none: at any time',
  ).argParser(windowText),
  new Option('--resync-time-zone <zone>', 'change the policy: time zone of the window').argParser(
    checkedBy(localTimeIn),
  ),
  new Option(
    '--resync-at-dirty-percent <n>',
    'change the policy: a change log that names more of a disk is given up for a resync; or never',
  ).argParser((text) => (text === 'never' ? text : dirtyPercent(text))),
  new Option('--app-consistent-hours <n>', 'change the policy: hours between app-consistent points; 0: none').argParser(
    wholeNumber(0, 12),
  ),
];

export function addProtect(program: Command, context: CliContext): void {
  const command = program.command('protect').description('protect a machine: name its disks and its policy');
  for (const option of policyOptions) command.addOption(option);
  addJson(addConfigOptions(command, 'client'))
    .argument('<machine>', 'name of the machine, as in its certificate')
    .requiredOption('--disk <names...>', 'names of its disks')
    .option('--policy <name>', 'name of the policy', 'default')
    .action(async (machine: string, options: ProtectOptions) => {
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const { policy } = options;
      const keys = policyOptions.map((option) => option.attributeName());
      const change: PolicyChange = Object.fromEntries(
        keys.map((key) => [key, options[key] === 'none' ? null : options[key]]),
      );
      const made = await context.roles.protect({ ...client, machine, disks: options.disk, policy, change });
      if (options.json) {
        printJson(context.terminal, made);
        return;
      }
      say(context.terminal, `${made.machine} is protected by policy ${made.policy}: ${made.disks.join(', ')}`);
    });
}

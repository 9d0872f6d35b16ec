import { type Command, InvalidArgumentError, Option } from 'commander';
import { clientConfig } from '../../config.ts';
import { parseDayWindow } from '../../kit/day-window.ts';
import { localTimeIn } from '../../kit/local-time.ts';
import { parseRateTable } from '../../kit/rate-table.ts';
import { priorities, type Priority } from '../../kit/shares.ts';
import { limits } from '../../limits.ts';
import type { CliContext } from '../context.ts';
import { printJson, say } from '../output.ts';
import { addConfigOptions, addJson, checkedBy, type Options, parseSize, sourcesOf, wholeNumber } from '../options.ts';
import type { PolicyChange, ProtectRequest } from '../roles.ts';

interface ProtectOptions extends Options {
  readonly disk: readonly string[];
  readonly policy: string;
  readonly machineXml?: string;
  readonly cpus?: number;
  readonly memory?: number;
  readonly firmware: string;
  readonly machineType: string;
  readonly bus: string;
  readonly nic?: readonly string[];
  readonly machineThrottle?: string;
  readonly machinePriority?: Priority | 'none';
  readonly json?: boolean;
}

const { blockBytesMin, blockBytesMax } = limits.disk;

function blockSize(text: string): number {
  const bytes = wholeNumber(blockBytesMin, blockBytesMax)(text);
  if (!Number.isInteger(Math.log2(bytes))) throw new InvalidArgumentError('Not a power of two.');
  return bytes;
}

const windowText = checkedBy((text) => text === 'none' || parseDayWindow(text, 'UTC'));
const rpoTarget = wholeNumber(1, limits.control.rpoTargetSecondsMax);
const rates = checkedBy((text) => text === 'none' || parseRateTable(text, 'UTC'));
const thinHours = wholeNumber(1, 24 * 366);
const dirtyPercent = wholeNumber(1, 100);

/** One flag per key of a policy that can be changed here. */
const policyOptions: readonly Option[] = [
  new Option('--interval-seconds <n>', 'change the policy: seconds between cuts').argParser(wholeNumber(1, 86_400)),
  new Option(
    '--rpo-target-seconds <n>',
    'change the policy: how old the newest committed point may be; none: 12 intervals, at least a minute',
  ).argParser((text) => (text === 'none' ? text : rpoTarget(text))),
  new Option('--compression <codec>', 'change the policy').choices(['lz4', 'zstd', 'off']),
  new Option('--block-size <bytes>', 'change the policy: bytes per block of new disks').argParser(blockSize),
  new Option('--retention-hours <n>', 'change the policy: how long points are kept').argParser(
    wholeNumber(1, 24 * 366),
  ),
  new Option(
    '--thin-after-hours <n>',
    'change the policy: of points older than this only some are kept; none: all of them',
  ).argParser((text) => (text === 'none' ? text : thinHours(text))),
  new Option('--thin-to-minutes <n>', 'change the policy: of thinned points one per so many minutes is kept').argParser(
    wholeNumber(1, 1440),
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
  new Option(
    '--throttle <rates>',
    'change the policy: what its machines may send together, 8Mb/s or "mon-fri 08:00-18:00 8Mb/s; else unlimited"; none: all',
  ).argParser(rates),
  new Option('--throttle-time-zone <zone>', 'change the policy: time zone of the limits').argParser(
    checkedBy(localTimeIn),
  ),
  new Option('--priority <priority>', 'change the policy: who goes first where a limit makes machines wait').choices(
    priorities,
  ),
];

/** Flags of what is said of this machine only. */
const machineThrottle = new Option(
  '--machine-throttle <rates>',
  'what this machine may send; its policy holds too. none: as its policy',
).argParser(rates);
const machinePriority = new Option('--machine-priority <priority>', 'its own priority; none: as its policy').choices([
  ...priorities,
  'none',
]);

/** What the machine is, for starting it elsewhere. */
const machineOptions: readonly Option[] = [
  new Option('--machine-xml <file>', 'what the machine is, as a libvirt domain (virsh dumpxml); - is standard input'),
  new Option('--cpus <n>', 'processors of the machine').argParser(wholeNumber(1, limits.machine.cpusMax)),
  new Option('--memory <size>', 'memory of the machine, such as 4G').argParser(parseSize),
  new Option('--firmware <firmware>', 'what the machine starts by').choices(['bios', 'uefi']).default('bios'),
  new Option('--machine-type <type>', 'chipset of the machine').choices(['pc', 'q35']).default('q35'),
  new Option('--bus <bus>', 'how its disks are attached').choices(['virtio', 'scsi', 'sata', 'ide']).default('virtio'),
  new Option('--nic <cards...>', 'its network cards: model[,mac=ADDRESS][,network=NAME]'),
];

/** `virtio,mac=52:54:00:12:34:56`; what it says is checked by who takes it. */
function networkCard(text: string): Record<string, string> {
  const [model = '', ...pairs] = text.split(',');
  return { model, ...Object.fromEntries(pairs.map((pair) => pair.split(/=(.*)/s).slice(0, 2) as [string, string])) };
}

/** Undefined: nothing was said of it. */
async function definitionOf(context: CliContext, options: ProtectOptions): Promise<ProtectRequest['definition']> {
  const { machineXml, cpus, memory, firmware, machineType, bus, nic = [] } = options;
  if (machineXml !== undefined) return { xml: await context.readText(machineXml) };
  if (cpus === undefined && memory === undefined && nic.length === 0) return undefined;
  const nics = nic.map(networkCard);
  return { cpus, memoryBytes: memory, firmware, type: machineType, bus, nics };
}

/** What was said; null for `none`. */
const orNull = <T>(value: T): Exclude<T, 'none'> | null => (value === 'none' ? null : (value as Exclude<T, 'none'>));

export function addProtect(program: Command, context: CliContext): void {
  const command = program.command('protect').description('protect a machine: name its disks and its policy');
  for (const option of [...policyOptions, machineThrottle, machinePriority, ...machineOptions])
    command.addOption(option);
  addJson(addConfigOptions(command, 'client'))
    .argument('<machine>', 'name of the machine, as in its certificate')
    .requiredOption('--disk <names...>', 'names of its disks')
    .option('--policy <name>', 'name of the policy', 'default')
    .action(async (machine: string, options: ProtectOptions) => {
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const { policy } = options;
      const keys = policyOptions.map((option) => option.attributeName());
      const change: PolicyChange = Object.fromEntries(keys.map((key) => [key, orNull(options[key])]));
      const own = { throttle: orNull(options.machineThrottle), priority: orNull(options.machinePriority) };
      const definition = await definitionOf(context, options);
      const made = await context.roles.protect({
        ...client,
        machine,
        disks: options.disk,
        policy,
        change,
        own,
        definition,
      });
      for (const { message, remedy } of made.warnings) say(context.terminal, `warning: ${message}; ${remedy}`);
      if (options.json) {
        printJson(context.terminal, made);
        return;
      }
      say(context.terminal, `${made.machine} is protected by policy ${made.policy}: ${made.disks.join(', ')}`);
    });
}

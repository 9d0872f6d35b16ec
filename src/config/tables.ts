/**
 * Every key there is, by section, with its check, its default and one line of help. The file, the environment and the flags
 * are all made from these tables, so a key is called the same everywhere.
 */
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { parseDayWindow } from '../kit/day-window.ts';
import { localTimeIn } from '../kit/local-time.ts';
import { isProblem } from '../kit/problem.ts';
import { parseRateTable } from '../kit/rate-table.ts';
import { limits } from '../limits.ts';

export interface Address {
  readonly host: string;
  /** 0: any free port (listening only). */
  readonly port: number;
}

const portMax = 65_535;

/** `host:port`, `host`, `:port`, `port`, `[v6]:port`; null if it is none of these. */
function parseAddress(text: string): { host: string | undefined; port: number | undefined } | null {
  if (/^\d+$/.test(text)) return { host: undefined, port: Number(text) };
  const match = /^(?:\[(?<six>[0-9a-fA-F:.]+)\]|(?<host>[^:[\]\s/]*))(?::(?<port>\d+))?$/.exec(text);
  const host = match?.groups?.['six'] ?? match?.groups?.['host'];
  const port = match?.groups?.['port'];
  if (!match || (!host && port === undefined)) return null;
  return { host: host === '' ? undefined : host, port: port === undefined ? undefined : Number(port) };
}

/** `defaultHost` null: the host must be given. */
function address(defaultHost: string | null, defaultPort: number) {
  return z.union([z.string(), z.int().transform(String)]).transform((text, context): Address => {
    const parsed = parseAddress(text);
    const host = parsed?.host ?? defaultHost;
    const port = parsed?.port ?? defaultPort;
    if (!parsed || host === null || port > portMax) {
      context.addIssue({ code: 'custom', message: `"${text}" is not an address (host:port)` });
      return z.NEVER;
    }
    return { host, port };
  });
}

/** One address or several: a list, or text with commas. */
function addresses(defaultPort: number) {
  const several = (value: unknown): unknown =>
    typeof value === 'string' ? value.split(',').map((one) => one.trim()) : Array.isArray(value) ? value : [value];
  return z.preprocess(
    (value) => (value === undefined ? undefined : several(value)),
    z.array(address(null, defaultPort)).min(1).max(limits.leases.serversMax),
  );
}

/** A number, or digits (the environment and flags have only text). */
const wholeNumber = (least: number, most: number) =>
  z
    .union([z.number(), z.string().regex(/^\d+$/).transform(Number)], 'not a whole number')
    .pipe(z.int().min(least).max(most));

const minutesMax = 1440;

/** `1,2,4`, or a list in the file. */
const minutesList = z
  .union([z.string(), z.number(), z.array(z.union([z.number(), z.string()]))])
  .transform((value, context): number[] => {
    const list = (Array.isArray(value) ? value : String(value).split(',')).map((each) => Number(String(each) || NaN));
    const { retryMinutesMax } = limits.agent;
    const good = list.every((each) => Number.isInteger(each) && each >= 1 && each <= minutesMax);
    if (good && list.length > 0 && list.length <= retryMinutesMax) return list;
    const message = `not a list of 1 to ${retryMinutesMax} pauses of 1 to ${minutesMax} minutes`;
    context.addIssue({ code: 'custom', message });
    return z.NEVER;
  });

const { blockBytesMin, blockBytesMax, perMachineMax } = limits.disk;
const filePath = z.string().min(1);
const name = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'a name is 1 to 63 of a-z 0-9 . _ -, the first a letter or digit');
const isPowerOfTwo = (value: number): boolean => Number.isInteger(Math.log2(value));

/** Text that `parse` takes; what it says to other text is the complaint. */
const textFor = (parse: (text: string) => unknown) =>
  z.string().superRefine((text, context) => {
    try {
      parse(text);
    } catch (error) {
      if (!isProblem(error)) throw error;
      context.addIssue({ code: 'custom', message: `${error.message}: ${error.remedy}` });
    }
  });

const yesNo = z.union(
  [z.boolean(), z.enum(['true', 'false']).transform((text) => text === 'true')],
  'not true or false',
);

/**
 * Where a disk's content and its changes come from: `nbd`, whose server listens on a Unix socket or on a port of loopback, exactly one; or
 * `scan`, which reads the image and has no server. `frozen` says that nobody writes to a scanned image while it is read.
 */
export const diskTable = z
  .strictObject({
    name,
    image: filePath,
    capture: z.enum(['nbd', 'scan']).default('nbd'),
    socket: filePath.optional(),
    port: wholeNumber(0, portMax).optional(),
    frozen: yesNo.default(false),
  })
  .superRefine(({ capture, socket, port, frozen }, context) => {
    const served = [socket, port].filter((place) => place !== undefined).length;
    const complain = (message: string): void => context.addIssue({ code: 'custom', message });
    if (capture === 'scan' && served > 0) complain('a disk with capture "scan" has neither socket nor port');
    if (capture === 'nbd' && served !== 1) complain('a disk has either a socket or a port (or capture "scan")');
    if (capture === 'nbd' && frozen) complain('only a disk with capture "scan" can be frozen');
  });

const disks = z.preprocess(
  (value, context): unknown => {
    if (typeof value !== 'string') return value;
    try {
      // From the environment a list is YAML text.
      return parseYaml(value);
    } catch {
      context.addIssue({ code: 'custom', message: 'not a YAML list' });
      return z.NEVER;
    }
  },
  z
    .array(diskTable)
    .min(1)
    .max(perMachineMax)
    .refine((list) => new Set(list.map((disk) => disk.name)).size === list.length, 'two disks have the same name'),
);

export const loopback = '127.0.0.1';
const everywhere = '0.0.0.0';

export const tables = {
  common: z.strictObject({
    data: filePath.optional().describe('directory under which every role keeps its own'),
    logLevel: z
      .enum(['debug', 'info', 'warn', 'error', 'silent'])
      .default('info')
      .describe('least level that is logged'),
    metrics: address(loopback, 9464)
      .default({ host: loopback, port: 9464 })
      .describe('address of /metrics, /healthz and /readyz'),
    controlUrl: z
      .url({ protocol: /^https$/, error: 'not an https URL' })
      .optional()
      .describe('URL of the control API'),
  }),
  target: z.strictObject({
    data: filePath.optional().describe("the target's directory"),
    listen: address(everywhere, 9444).default({ host: everywhere, port: 9444 }).describe('address for process servers'),
    vault: filePath.optional().describe('file of the vault key (default: vault.key in the directory)'),
    credentials: filePath.optional().describe('directory of certificate and key'),
  }),
  processServer: z.strictObject({
    data: filePath.optional().describe("the process server's directory"),
    listen: address(everywhere, 9443).default({ host: everywhere, port: 9443 }).describe('address for agents'),
    target: address(null, 9444).describe('address of the master target'),
    credentials: filePath.optional().describe('directory of certificate and key'),
    advertise: address(null, 0)
      .optional()
      .describe('address agents are told (default: this host, or where it listens)'),
    leases: yesNo.default(true).describe('own machines by leases of control, so that another can take them over'),
    workers: wholeNumber(1, 256).optional().describe('worker threads (default: one per core)'),
    spool: filePath.optional().describe('directory for what the target does not take'),
    spoolGiB: wholeNumber(0, 1024 * 1024)
      .default(16)
      .describe('what the spool may take, GiB; 0: none, and agents wait with the target'),
    throttle: textFor((text) => parseRateTable(text, 'UTC'))
      .optional()
      .describe(
        'what it may send to its target, 8Mb/s or "mon-fri 08:00-18:00 8Mb/s; else unlimited"; `process-servers --throttle` sets another one in its place',
      ),
    throttleTimeZone: textFor(localTimeIn).default('UTC').describe('time zone of that, by its IANA name'),
    shards: wholeNumber(1, limits.processServer.shardsMax).default(1).describe('processes that share the port'),
  }),
  agent: z.strictObject({
    data: filePath.optional().describe("the agent's directory: change logs and leaves"),
    machine: name.describe('name of the machine, as in its certificate'),
    machineXml: filePath.optional().describe('libvirt domain of the machine, when control does not know it'),
    disks: disks.describe('disks: name, image, and socket, port or capture "scan"'),
    processServer: addresses(9443).describe('address of the process server, or of several, with commas'),
    intervalSeconds: wholeNumber(1, 86_400).optional().describe('seconds from one cut to the next'),
    compression: z.enum(['lz4', 'zstd', 'off']).optional().describe('lz4, zstd or off'),
    blockSize: wholeNumber(blockBytesMin, blockBytesMax)
      .refine(isPowerOfTwo, 'not a power of two')
      .optional()
      .describe('bytes per block of a disk that is new'),
    resyncWindow: z
      .union([z.literal('none').transform(() => null), textFor((text) => parseDayWindow(text, 'UTC'))])
      .optional()
      .describe('when a resync may read the disks, HH:MM-HH:MM, several with commas; none: at any time'),
    resyncTimeZone: textFor(localTimeIn).optional().describe('time zone of the window, by its IANA name'),
    resyncAtDirtyPercent: z
      .union([z.literal('never'), wholeNumber(1, 100)], 'neither a percentage from 1 to 100 nor "never"')
      .optional()
      .describe('a change log that names more of a disk is given up for a resync; or never'),
    appConsistentHours: wholeNumber(0, 12).optional().describe('hours between app-consistent points; 0: none'),
    preHook: filePath.optional().describe('program that makes applications quiet before an app-consistent cut'),
    postHook: filePath.optional().describe('program that undoes what preHook did'),
    hookTimeoutSeconds: wholeNumber(1, 3600).default(30).describe('seconds after which a hook is killed'),
    guestAgentSocket: filePath.optional().describe('Unix socket of the QEMU guest agent, which freezes and thaws'),
    guestAgentTimeoutSeconds: wholeNumber(1, 3600).default(30).describe('seconds the guest agent has to answer'),
    cpuPercent: wholeNumber(1, 100 * 1024)
      .optional()
      .describe('processor time the background work may take, percent of one core (150: one and a half)'),
    memoryMiB: wholeNumber(1, 1024 * 1024)
      .optional()
      .describe('memory the whole agent may take, MiB'),
    retryMinutes: minutesList
      .default([...limits.agent.retryMinutesDefault])
      .describe('pauses between tries to connect after a minute of quick ones, minutes; the last one repeats'),
    credentials: filePath.optional().describe('directory of certificate and key'),
  }),
  control: z.strictObject({
    data: filePath.optional().describe("the control API's directory: state, certificate authority"),
    listen: address(loopback, 8443).default({ host: loopback, port: 8443 }).describe('address of the control API'),
    state: z
      .string()
      .regex(/^postgres(?:ql)?:\/\//, 'not an address of PostgreSQL (postgres://user@host/database)')
      .optional()
      .describe('PostgreSQL database for the state, postgres://user@host/database (default: embedded)'),
    statePassword: filePath.optional().describe('file that holds the password for it'),
  }),
  client: z.strictObject({
    credentials: filePath.optional().describe("directory with the operator's token and the authority's certificate"),
  }),
} as const;

export type Section = keyof typeof tables;
export type Values<S extends Section> = z.output<(typeof tables)[S]>;

/** The sections of a configuration file; keys of `common` stand at its top level. */
export const sections = ['target', 'processServer', 'agent', 'control', 'client'] as const satisfies readonly Section[];

export interface KeyFacts {
  /** As in the file. */
  readonly key: string;
  /** As on the command line, with dashes. */
  readonly flag: string;
  /** As in the environment. */
  readonly variable: string;
  readonly help: string;
}

const words = (text: string): string[] => text.split(/(?=[A-Z])(?<![MG]i)/).map((word) => word.toLowerCase());
const variableOf = (section: Section, key: string): string =>
  ['TIDEMARK', ...(section === 'common' ? [] : words(section)), ...words(key)].join('_').toUpperCase();

/** The keys of a section, with what they are called in each source. */
export function keysOf(section: Section): KeyFacts[] {
  return Object.entries<z.ZodType>(tables[section].shape).map(([key, type]) => ({
    key,
    flag: `--${words(key).join('-')}`,
    variable: variableOf(section, key),
    help: type.description ?? '',
  }));
}

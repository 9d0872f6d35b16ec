/** Options that several commands share, and how their text becomes values. What is wrong ends with exit code `usage`. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { ConfigSources } from '../config/sources.ts';
import { keysOf, type Section } from '../config/tables.ts';
import { isProblem } from '../kit/problem.ts';
import { GiB, KiB, MiB } from '../kit/sizes.ts';
import type { CliContext } from './context.ts';
import type { PointChoice } from './roles.ts';

export type Options = Readonly<Record<string, unknown>>;

/** Adds `--config`, the common keys and the keys of `section`. Where both have a key, it is the section's. */
export function addConfigOptions(command: Command, section: Section, leaveOut: readonly string[] = []): Command {
  command.option('--config <file>', 'configuration file, YAML (TIDEMARK_CONFIG)');
  const own = section === 'common' ? [] : keysOf(section);
  const common = keysOf('common').filter(({ key }) => !own.some((one) => one.key === key));
  for (const { key, flag, variable, help } of [...own, ...common]) {
    if (leaveOut.includes(key)) continue;
    const value =
      key === 'data' || key === 'credentials' ? 'dir' : key === 'vault' || key === 'statePassword' ? 'file' : 'value';
    command.addOption(new Option(`${flag} <${value}>`, `${help} (${variable})`));
  }
  return command;
}

/** Reads the configuration file, if one is named, and sorts the flags into their sections. */
export async function sourcesOf(
  context: Pick<CliContext, 'environment' | 'readText'>,
  section: Section,
  options: Options,
): Promise<ConfigSources> {
  const own = section === 'common' ? [] : keysOf(section);
  const common = keysOf('common');
  // A parsed flag has a name of its own: `--spool-gib` is `spoolGib`, its key `spoolGiB`.
  const pick = (keys: typeof common) =>
    Object.fromEntries(keys.map(({ key, flag }) => [key, options[new Option(flag).attributeName()]]));
  const flags = {
    common: pick(common.filter(({ key }) => !own.some((one) => one.key === key))),
    [section]: pick(section === 'common' ? common : own),
  };
  const name = options['config'] ?? context.environment['TIDEMARK_CONFIG'];
  const file = typeof name === 'string' ? { name, text: await context.readText(name) } : undefined;
  return { file, environment: context.environment, flags };
}

export function addJson(command: Command): Command {
  return command.option('--json', 'print JSON on stdout');
}

export function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || value > most)
      throw new InvalidArgumentError(`Not a whole number from ${least} to ${most}.`);
    return value;
  };
}

const units: Readonly<Record<string, number>> = { '': 1, K: KiB, M: MiB, G: GiB, T: 1024 * GiB };

/** `512M`, `20G`, or bytes. */
export function parseSize(text: string): number {
  const [, digits, unit = ''] = /^(\d{1,12})([KMGT]?)(?:i?B)?$/.exec(text) ?? [];
  const bytes = Number(digits) * (units[unit] ?? Number.NaN);
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  throw new InvalidArgumentError('Not a size: write 512M, 20G or bytes.');
}

/** What `parse` says to text it does not take, as the complaint about an argument. */
export function checkedBy(parse: (text: string) => unknown): (text: string) => string {
  return (text) => {
    try {
      parse(text);
      return text;
    } catch (error) {
      throw isProblem(error) ? new InvalidArgumentError(`${error.message}: ${error.remedy}`) : error;
    }
  };
}

/** `12`, `latest`, `proven`. */
export function parsePoint(text: string): PointChoice {
  if (text === 'latest' || text === 'proven') return text;
  if (/^[1-9]\d{0,14}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('Not a point: a number, "latest" or "proven".');
}

export function pointOption(): Option {
  return new Option('--point <point>', 'number of the point, "latest" or "proven"')
    .argParser(parsePoint)
    .default('proven');
}

/** `name=vda,image=/images/vm1.raw,socket=/run/vm1.sock`, once per disk. Keys and values are checked with the configuration. */
export function collectDisk(text: string, before: readonly Options[] | undefined): Options[] {
  const pairs = text.split(',').map((pair) => pair.split(/=(.*)/s));
  if (pairs.some(([key, value]) => !key || !value)) {
    throw new InvalidArgumentError('Write name=NAME,image=FILE,socket=PATH or name=NAME,image=FILE,port=NUMBER.');
  }
  return [...(before ?? []), Object.fromEntries(pairs.map(([key, value]) => [key ?? '', value]))];
}

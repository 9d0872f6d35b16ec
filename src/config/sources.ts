/**
 * Brings file, environment and flags together for one section, and refuses what it does not know. Everything thrown here is
 * Problem `bad-config` and names the key as the reader wrote it.
 */
import { parse as parseYaml } from 'yaml';
import type { z } from 'zod';
import { invariant } from '../kit/invariant.ts';
import { nearest } from '../kit/nearest.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { diskTable, keysOf, type Section, sections, tables, type Values } from './tables.ts';

type Raw = Readonly<Record<string, unknown>>;

export interface ConfigSources {
  /** Text of the configuration file and its name, if there is one. */
  readonly file?: { readonly name: string; readonly text: string } | undefined;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Flags, by section and key; `undefined` is not set. */
  readonly flags: { readonly [S in Section]?: Raw };
}

function refuseUnknown(where: string, key: string, valid: readonly string[]): never {
  throw new Problem('bad-config', `${where}: unknown key "${key}"`, {
    remedy: `did you mean "${nearest(key, valid)}"? valid: ${valid.join(', ')}`,
  });
}

function asMap(value: unknown, where: string): Raw {
  if (value === undefined || value === null) return {};
  if (typeof value === 'object' && !Array.isArray(value)) return value as Raw;
  throw new Problem('bad-config', `${where}: expected keys and values`, { remedy: 'write "key: value" lines' });
}

function readFile(file: ConfigSources['file']): Raw {
  if (!file) return {};
  try {
    return asMap(parseYaml(file.text), file.name);
  } catch (cause) {
    if (cause instanceof Problem) throw cause;
    throw new Problem('bad-config', `${file.name}: not YAML: ${messageOf(cause)}`, { remedy: 'mend the file', cause });
  }
}

/** Every key of every section must be known, whichever role is started. */
function checkFile(raw: Raw, fileName: string): void {
  const top = keysOf('common').map(({ key }) => key);
  for (const [key, value] of Object.entries(raw)) {
    const section = sections.find((one) => one === key);
    if (!section) {
      if (!top.includes(key)) refuseUnknown(fileName, key, [...top, ...sections]);
      continue;
    }
    const valid = keysOf(section).map((facts) => facts.key);
    const where = `${fileName}: ${section}`;
    for (const inner of Object.keys(asMap(value, where)))
      if (!valid.includes(inner)) refuseUnknown(where, inner, valid);
  }
}

/** Read by other parts: tests, and the place of the configuration file itself. */
const otherVariables = /^TIDEMARK_(?:TEST_.*|CONFIG)$/;

function checkEnvironment(environment: ConfigSources['environment']): void {
  const valid = (['common', ...sections] as const).flatMap((section) =>
    keysOf(section).map(({ variable }) => variable),
  );
  for (const variable of Object.keys(environment)) {
    if (!variable.startsWith('TIDEMARK_') || otherVariables.test(variable) || valid.includes(variable)) continue;
    throw new Problem('bad-config', `environment: unknown variable ${variable}`, {
      remedy: `did you mean ${nearest(variable, valid)}?`,
    });
  }
}

function refuseIssue(section: Section, error: z.ZodError): never {
  const issue = error.issues[0];
  invariant(issue, 'a failed check names an issue');
  const at = issue.path.map(String);
  const where = [...(section === 'common' ? [] : [section]), ...at].join('.');
  if (issue.code === 'unrecognized_keys') refuseUnknown(where, issue.keys[0] ?? '', Object.keys(diskTable.shape));
  const facts = keysOf(section).find(({ key }) => key === at[0]);
  const ways = facts
    ? [`${where} in the configuration file`, facts.variable, facts.flag.replace(/^--disks$/, '--disk')]
    : [where];
  const missing = issue.input === undefined;
  throw new Problem('bad-config', missing ? `${where} is not set` : `${where}: ${issue.message}`, {
    remedy: `set ${ways.join(', or ')}`,
  });
}

/** The checked values of one section: file < environment < flags, defaults filled in. */
export function sectionOf<S extends Section>(section: S, sources: ConfigSources): Values<S> {
  const file = readFile(sources.file);
  checkFile(file, sources.file?.name ?? '');
  checkEnvironment(sources.environment);
  const own = section === 'common' ? file : asMap(file[section], section);
  const merged: Record<string, unknown> = {};
  for (const { key, variable } of keysOf(section)) {
    const value = sources.flags[section]?.[key] ?? sources.environment[variable] ?? own[key];
    if (value !== undefined && value !== null) merged[key] = value;
  }
  const result = tables[section].safeParse(merged, { reportInput: true });
  return result.success ? (result.data as Values<S>) : refuseIssue(section, result.error);
}

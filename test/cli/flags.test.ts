/** Every key of the configuration can be said on the command line, and reaches the role. */
import { Command } from 'commander';
import { expect, it } from 'vitest';
import { addConfigOptions, sourcesOf } from '../../src/cli/options.ts';
import { keysOf, sections } from '../../src/config/tables.ts';

it.each(
  (['common', ...sections] as const).flatMap((section) => keysOf(section).map((facts) => ({ section, ...facts }))),
)('$section: $flag is $key', async ({ section, key, flag }) => {
  const command = addConfigOptions(new Command(), section);
  command.parse([flag, 'said'], { from: 'user' });
  const nothingElse = { environment: {}, readText: () => Promise.reject(new Error('no file was named')) };
  const { flags } = await sourcesOf(nothingElse, section, command.opts());
  expect(flags[section]?.[key]).toBe('said');
});

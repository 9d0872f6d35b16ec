/** The table of metrics is what the rooms declare, and what they declare keeps DESIGN §8. What running roles export: `test/deploy/running.test.ts`. */
import { describe, expect, it } from 'vitest';
import { resyncPhases, resyncReasons } from '../../src/agent/resync.ts';
import { gapReasons } from '../../src/wire/gap.ts';
import { wireCodes } from '../../src/wire/codes.ts';
import { declaredSeries, roles } from './declared.ts';
import { documentedLabels, documentedSeries, valuesOf } from './documented.ts';

/** What a name has to end in, `_total` left out. */
const suffixes: Readonly<Record<string, RegExp>> = {
  'Unix time': /_timestamp_seconds$/,
  seconds: /(?<!_timestamp)_seconds$/,
  'bytes/s': /_bytes_per_second$/,
  bytes: /_bytes$/,
  ratio: /_ratio$/,
  cores: /_cores$/,
  '0 or 1': /(?<!_seconds?|_bytes|_ratio|_cores)$/,
  count: /(?<!_seconds?|_bytes|_ratio|_cores)$/,
};

describe('METRICS.md', () => {
  it.each(roles)('lists exactly what %s declares, with type, labels and meaning', (role) => {
    const declared = declaredSeries(role).map(({ name, type, labels, help }) => ({
      name,
      type,
      labels: [...labels],
      meaning: help,
    }));
    const listed = documentedSeries
      .filter((series) => series.roles.includes(role))
      .map(({ name, type, labels, meaning }) => ({ name, type, labels, meaning }));
    const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1);
    expect(listed.sort(byName)).toEqual(declared.sort(byName));
  });

  it('lists a series once, of at least one role, with the unit its name ends in', () => {
    const names = documentedSeries.map(({ name }) => name);
    expect(names.filter((name, at) => names.indexOf(name) !== at)).toEqual([]);
    // To OpenMetrics a counter's name is what stands before `_total`.
    expect(names.filter((name) => names.includes(`${name}_total`))).toEqual([]);
    const wrong = documentedSeries.filter(
      ({ name, unit, roles: of }) => of.length === 0 || suffixes[unit]?.test(name.replace(/_total$/, '')) !== true,
    );
    expect(wrong).toEqual([]);
  });

  it('says once of every label of every series which values it has, and of no others', () => {
    const unsaid = documentedSeries.flatMap(({ name, labels }) =>
      labels.filter((label) => valuesOf(name, label).length !== 1).map((label) => `${name}{${label}}`),
    );
    expect(unsaid).toEqual([]);
    const unused = documentedLabels.flatMap(({ label, of }) =>
      of === 'all'
        ? []
        : of.filter((name) => !documentedSeries.some((one) => one.name === name && one.labels.includes(label))),
    );
    expect(unused).toEqual([]);
    const open = documentedLabels.filter(({ values }) => values === null).map(({ label }) => label);
    expect(new Set(open)).toEqual(new Set(['machine', 'disk', 'provider', 'code']));
  });

  it.each([
    ['tidemark_gaps_total', 'reason', gapReasons],
    ['tidemark_disk_resync', 'reason', resyncReasons],
    ['tidemark_disk_resync', 'stage', resyncPhases],
    ['tidemark_process_server_sessions_ended_total', 'reason', ['left', ...Object.keys(wireCodes)]],
  ])('knows all values of %s{%s}', (series, label, values) => {
    expect(valuesOf(series, label)[0]?.values).toEqual(new Set(values));
  });
});

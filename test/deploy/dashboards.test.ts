/** The dashboards: whole, laid out without overlaps, and every query names series and labels that are documented. That each shows data: `running.test.ts`. */
import { describe, expect, it } from 'vitest';
import { documentedSeries } from '../observe/documented.ts';
import { matchersIn, readDashboards, readScrapes, seriesIn, type Panel } from './deployed.ts';

const documented = new Map(documentedSeries.map((series) => [series.name, series]));
const ofPrometheus = new Set(['instance', 'job']);
const jobs = readScrapes().scrape_configs.map(({ job_name: job }) => job);
const columns = 24;
/** Of Grafana 12; a newer one migrates what is older. */
const schema = 41;
const units = new Set(['none', 's', 'bytes', 'Bps', 'percentunit']);

const overlap = ({ gridPos: a }: Panel, { gridPos: b }: Panel): boolean =>
  a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

describe.each([...readDashboards()])('%s', (_name, dashboard) => {
  const { panels } = dashboard;
  const shown = panels.filter(({ type }) => type !== 'row');
  const variables = dashboard.templating.list.map(({ name }) => name);

  it('is one that Grafana opens, on whatever data source is chosen', () => {
    expect(dashboard.schemaVersion).toBe(schema);
    expect(dashboard.uid).toMatch(/^tidemark-[a-z-]+$/);
    expect(dashboard.tags).toContain('tidemark');
    expect(dashboard.templating.list[0]).toMatchObject({ name: 'datasource', type: 'datasource', query: 'prometheus' });
    const ids = panels.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { title, targets = [], datasource } of shown) {
      expect(datasource, title).toEqual({ type: 'prometheus', uid: '${datasource}' });
      expect(targets.length, title).toBeGreaterThan(0);
      expect(new Set(targets.map(({ refId }) => refId)).size, title).toBe(targets.length);
      for (const target of targets)
        expect(target.datasource, title).toEqual({ type: 'prometheus', uid: '${datasource}' });
    }
  });

  it('says on each panel what it shows, once, in a unit', () => {
    const titles = shown.map(({ title }) => title);
    expect(new Set(titles).size).toBe(titles.length);
    for (const { title, description = '', fieldConfig } of shown) {
      expect(description.length, title).toBeGreaterThan(3);
      expect(units, title).toContain(fieldConfig?.defaults.unit);
    }
  });

  it('is laid out without overlaps', () => {
    for (const [at, panel] of panels.entries()) {
      expect(panel.gridPos.x + panel.gridPos.w, panel.title).toBeLessThanOrEqual(columns);
      expect(
        panels
          .slice(at + 1)
          .filter((other) => overlap(panel, other))
          .map(({ title }) => title),
        panel.title,
      ).toEqual([]);
    }
  });

  it('asks for series, labels, jobs and variables that there are', () => {
    const queries = [
      ...shown.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr }))),
      ...dashboard.templating.list.flatMap(({ name, query }) =>
        typeof query === 'string' ? [] : [{ title: `variable ${name}`, expr: query.query }],
      ),
    ];
    const faults = queries.flatMap(({ title, expr }) => [
      ...seriesIn(expr)
        .filter((name) => !documented.has(name))
        .map((name) => `${title}: no series ${name}`),
      ...matchersIn(expr)
        .filter(
          ({ series, label }) => !ofPrometheus.has(label) && documented.get(series)?.labels.includes(label) !== true,
        )
        .map(({ series, label }) => `${title}: ${series} has no label ${label}`),
      ...[...expr.matchAll(/job="([^"]+)"/g)].flatMap(([, job = '']) =>
        jobs.includes(job) ? [] : [`${title}: no job ${job}`],
      ),
      ...[...expr.matchAll(/\$(\w+)/g)].flatMap(([, name = '']) =>
        name === '__rate_interval' || variables.includes(name) ? [] : [`${title}: no variable ${name}`],
      ),
    ]);
    expect(faults).toEqual([]);
  });
});

it('there is one for the site, one for a machine, one for the hot path', () => {
  expect([...readDashboards().keys()]).toEqual(
    ['machine', 'process-server', 'site'].map((name) => `deploy/grafana/${name}.json`),
  );
});

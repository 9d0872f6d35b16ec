/** The alerts: Prometheus accepts them, their unit tests pass and cover each of them, and they rely on nothing that is not documented. */
import * as path from 'node:path';
import { describe, expect, it } from 'vitest';
import { buildProgram } from '../../src/cli/program.ts';
import { commandLine } from '../cli/fake-roles.ts';
import { documentedSeries } from '../observe/documented.ts';
import { readmeFaults } from '../tidy/readme.ts';
import { root } from '../tidy/tree.ts';
import { requireTool, runTool } from '../tools.ts';
import { alertsExpected, alertsFile, alertTests, matchersIn, readRules, readScrapes, seriesIn } from './deployed.ts';

const alerts = readRules().groups.flatMap(({ rules }) => rules);
const documented = new Map(documentedSeries.map((series) => [series.name, series]));
const inDirectory = { cwd: path.join(root, path.dirname(alertsFile)) };

describe('alerts', () => {
  it('say what is wrong, why that can be, and what to do', () => {
    for (const { alert, labels, annotations } of alerts) {
      expect(alert).toMatch(/^Tidemark[A-Z]\w+$/);
      expect(['warning', 'critical'], alert).toContain(labels['severity']);
      expect(Object.keys(annotations).sort(), alert).toEqual(['action', 'cause', 'summary']);
      expect(Math.min(...Object.values(annotations).map((text) => text.length)), alert).toBeGreaterThan(20);
    }
    expect(new Set(alerts.map(({ alert }) => alert)).size).toBe(alerts.length);
  });

  it('name only series, labels and commands that there are', () => {
    const program = buildProgram(commandLine().context);
    const faults = alerts.flatMap(({ alert, expr, annotations }) => {
      const unknown = seriesIn(expr).filter((name) => !documented.has(name));
      const matched = matchersIn(expr).filter(
        ({ series, label }) => documented.get(series)?.labels.includes(label) !== true,
      );
      const labels = new Set([
        'instance',
        'job',
        ...seriesIn(expr).flatMap((name) => documented.get(name)?.labels ?? []),
      ]);
      const text = Object.values(annotations).join('\n');
      const shown = [...text.matchAll(/\$labels\.(\w+)/g)].map(([, label = '']) => label);
      const commands = [...text.matchAll(/`(tidemark [^`]+)`/g)].map(
        ([, command]) => `\`\`\`sh\n${command ?? ''}\n\`\`\`\n`,
      );
      const known = { npmScripts: new Set<string>(), executables: new Set<string>(), program };
      return [
        ...unknown.map((name) => `${alert}: no series ${name}`),
        ...matched.map(({ series, label }) => `${alert}: ${series} has no label ${label}`),
        ...shown
          .filter((label) => !labels.has(label))
          .map((label) => `${alert}: shows ${label}, which it does not have`),
        ...commands.flatMap((command) => readmeFaults(command, known)),
      ];
    });
    expect(faults).toEqual([]);
  });

  it('speak of jobs that the example scrapes', () => {
    const jobs = readScrapes().scrape_configs.map(({ job_name: job }) => job);
    expect(jobs.sort()).toEqual(['tidemark-agent', 'tidemark-control', 'tidemark-process-server', 'tidemark-target']);
    for (const { expr } of alerts)
      for (const [, pattern = ''] of expr.matchAll(/job=~"([^"]+)"/g))
        expect(jobs.filter((job) => !new RegExp(`^(?:${pattern})$`).test(job))).toEqual([]);
  });

  it('are each seen to fire by a unit test', () => {
    const fired = new Set(alertTests.flatMap((name) => alertsExpected(name)));
    expect(alerts.map(({ alert }) => alert).filter((alert) => !fired.has(alert))).toEqual([]);
  });
});

describe.skipIf(!requireTool('promtool'))('promtool', () => {
  it('finds nothing to complain of', async () => {
    const checked = await runTool('promtool', ['check', 'config', 'prometheus.yml'], inDirectory);
    expect(checked, checked.stderr + checked.stdout).toMatchObject({ code: 0 });
  });

  it.each(alertTests)('passes %s', async (name) => {
    const tested = await runTool('promtool', ['test', 'rules', path.basename(name)], {
      ...inDirectory,
      timeoutMs: 60_000,
    });
    expect(tested, tested.stderr + tested.stdout).toMatchObject({ code: 0 });
  });
});

/** What `deploy/` holds, as data: alerts and dashboards, and which series their queries name. */
import { parse } from 'yaml';
import { listTree, readText } from '../tidy/tree.ts';

export interface Alert {
  readonly alert: string;
  readonly expr: string;
  readonly for?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface RuleFile {
  readonly groups: readonly { readonly name: string; readonly rules: readonly Alert[] }[];
}

export const alertsFile = 'deploy/prometheus/alerts.yml';
export const alertTests = ['deploy/prometheus/alerts.test.yml', 'deploy/prometheus/alerts-of-days.test.yml'] as const;

export function readRules(): RuleFile {
  return parse(readText(alertsFile)) as RuleFile;
}

interface UnitTestFile {
  readonly tests: readonly {
    readonly promql_expr_test?: readonly { readonly exp_samples: readonly { readonly labels: string }[] }[];
  }[];
}

/** Names of the alerts that a file of unit tests expects to fire at some moment. */
export function alertsExpected(name: string): string[] {
  const { tests } = parse(readText(name)) as UnitTestFile;
  const samples = tests.flatMap(({ promql_expr_test: checks = [] }) => checks.flatMap((check) => check.exp_samples));
  return samples.flatMap(({ labels }) => /alertname="(\w+)"/.exec(labels)?.[1] ?? []);
}

export interface ScrapeFile {
  readonly rule_files: readonly string[];
  readonly scrape_configs: readonly {
    readonly job_name: string;
    readonly static_configs: readonly { readonly targets: readonly string[] }[];
  }[];
}

export function readScrapes(): ScrapeFile {
  return parse(readText('deploy/prometheus/prometheus.yml')) as ScrapeFile;
}

/** Names of our series in a query, each once. */
export function seriesIn(query: string): string[] {
  return [...new Set(query.match(/\btidemark_\w+/g))];
}

/** Matchers of each of our series in a query, as `series{label}`. */
export function matchersIn(query: string): { series: string; label: string }[] {
  return [...query.matchAll(/\b(tidemark_\w+)\{([^}]*)\}/g)].flatMap(([, series = '', inside = '']) =>
    [...inside.matchAll(/([a-z_]+)\s*[=!]/g)].map(([, label = '']) => ({ series, label })),
  );
}

export interface Target {
  readonly refId: string;
  readonly expr: string;
  readonly datasource: { readonly type: string; readonly uid: string };
  readonly legendFormat?: string;
  readonly instant?: boolean;
}

export interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly datasource?: { readonly type: string; readonly uid: string };
  readonly targets?: readonly Target[];
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } };
}

export interface Variable {
  readonly name: string;
  readonly type: string;
  readonly query: string | { readonly query: string };
}

export interface Dashboard {
  readonly uid: string;
  readonly title: string;
  readonly schemaVersion: number;
  readonly tags: readonly string[];
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly Variable[] };
}

/** By path. */
export function readDashboards(): ReadonlyMap<string, Dashboard> {
  const names = listTree().filter((name) => name.startsWith('deploy/grafana/') && name.endsWith('.json'));
  return new Map(names.map((name) => [name, JSON.parse(readText(name)) as Dashboard]));
}

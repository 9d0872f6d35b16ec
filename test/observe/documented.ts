/** `src/observe/METRICS.md` as data. */
import { readText } from '../tidy/tree.ts';
import { roles, type RoleName } from './declared.ts';

export interface DocumentedSeries {
  readonly name: string;
  readonly type: string;
  readonly unit: string;
  readonly labels: readonly string[];
  readonly roles: readonly RoleName[];
  readonly meaning: string;
}

export interface DocumentedLabel {
  readonly label: string;
  /** `all`: of every series that has it. */
  readonly of: readonly string[] | 'all';
  /** Null: names, which no list holds. */
  readonly values: ReadonlySet<string> | null;
}

/** Cells of the table whose head begins with these words. */
function tableOf(markdown: string, head: string): string[][] {
  const lines = markdown.split('\n');
  const from = lines.findIndex((line) => line.startsWith(head));
  if (from < 0) throw new Error(`there is no table that begins ${head}`);
  const rows = lines.slice(from + 2);
  const end = rows.findIndex((line) => !line.startsWith('|'));
  return rows.slice(0, end < 0 ? undefined : end).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

const quoted = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? '');

const markdown = readText('src/observe/METRICS.md');

export const documentedSeries: readonly DocumentedSeries[] = tableOf(markdown, '| name | type').map((cells) => {
  const [name = '', type = '', unit = '', labels = '', of = '', meaning = ''] = cells;
  const named = of === 'all' ? roles : roles.filter((role) => of.split(', ').includes(role));
  return { name: quoted(name)[0] ?? '', type, unit, labels: quoted(labels), roles: named, meaning };
});

export const documentedLabels: readonly DocumentedLabel[] = tableOf(markdown, '| label | of').map((cells) => {
  const [label = '', of = '', values = ''] = cells;
  const closed = quoted(values);
  return {
    label: quoted(label)[0] ?? '',
    of: of === 'all' ? of : quoted(of),
    values: closed.length === 0 ? null : new Set(closed),
  };
});

/** The rows that say which values this label of this series may have. */
export function valuesOf(series: string, label: string): readonly DocumentedLabel[] {
  return documentedLabels.filter((row) => row.label === label && (row.of === 'all' || row.of.includes(series)));
}

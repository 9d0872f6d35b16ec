/** The table of the kernels, for a terminal and for README.md, and the file of figures that the choice of providers rests on. */
import { KiB } from '../src/kit/sizes.ts';
import { contentNames, type ContentName } from './content.ts';
import type { Row } from './measure.ts';

const verbs = { there: { hash: 'hash', cipher: 'encrypt' }, back: { hash: '', cipher: 'decrypt' } } as const;

function directionOf({ kernel, direction }: Row): string {
  if (kernel === 'hash' || kernel === 'cipher') return verbs[direction][kernel];
  return direction === 'there' ? 'compress' : 'decompress';
}

/** `1.42 (0.08)`: CPU s per GB, of which system. */
function cell(row: Row, content: ContentName): string {
  const figures = row.by[content];
  return figures ? `${figures.total.toFixed(2)} (${figures.system.toFixed(2)})` : '–';
}

function ratios(row: Row): string {
  const compresses = row.kernel !== 'hash' && row.kernel !== 'cipher' && row.direction === 'there';
  if (!compresses) return '';
  return (['text', 'program', 'database'] as const).map((name) => row.by[name]?.ratio.toFixed(2) ?? '–').join(' / ');
}

function cellsOf(row: Row): string[] {
  const speed = row.by.program ?? row.by.text;
  return [
    row.variant === '' ? row.provider : `${row.provider}, ${row.variant}`,
    `${row.kernel === 'lz4' || row.kernel === 'zstd' || row.kernel === 'deflate' ? `${row.kernel} ` : ''}${directionOf(row)}`,
    ...contentNames.map((name) => cell(row, name)),
    speed ? String(speed.mbps) : '–',
    ratios(row),
  ];
}

const heads = ['provider', 'kernel', ...contentNames, 'MB/s', 'ratio text / program / database'];

/** One table for each size of call, as Markdown that reads as well in a terminal. */
export function kernelLines(rows: readonly Row[]): string[] {
  const sizes = [...new Set(rows.map(({ bytes }) => bytes))];
  return sizes.flatMap((size) => {
    const table = [heads, ...rows.filter(({ bytes }) => bytes === size).map(cellsOf)];
    const widths = heads.map((_, column) => Math.max(...table.map((cells) => cells[column]?.length ?? 0)));
    const line = (cells: readonly string[]): string =>
      `| ${cells.map((text, column) => text.padEnd(widths[column] ?? 0)).join(' | ')} |`;
    const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
    const [head = [], ...body] = table;
    return ['', `${size / KiB} KiB per call, CPU s per GB (of which system)`, '', line(head), rule, ...body.map(line)];
  });
}

/** One row on a line, so that a change can be read. */
export function resultsText(machine: object, rows: readonly Row[]): string {
  const lines = rows.map((row) => `    ${JSON.stringify(row)}`);
  return `{\n  "machine": ${JSON.stringify(machine)},\n  "rows": [\n${lines.join(',\n')}\n  ]\n}\n`;
}

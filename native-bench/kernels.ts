/**
 * What the kernels cost here: every provider of every kernel, both directions, five kinds of content, three sizes of call.
 *
 *   npm run bench:kernels [-- --quick] [--json | --save]
 *
 * `--quick`: 64 KiB only, and roughly. `--json`: one JSON object on standard output. `--save`: writes `results.json`, on which the order of candidates in
 * `src/kernels` rests, and the table in `README.md`. Figures of a busy machine are worth little; how busy it was stands beside them.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { machineFacts } from '../scripts/bench/machine.ts';
import { fullEffort, measureKernels, quickEffort } from './measure.ts';
import { kernelLines, resultsText } from './report.ts';

const tableMarks = ['<!-- kernels: begin -->', '<!-- kernels: end -->'] as const;

/** Puts `lines` between the marks of the document. */
function replaceTable(document: string, lines: readonly string[]): string {
  const [begin, end] = tableMarks.map((mark) => document.indexOf(mark));
  if (begin === undefined || end === undefined || begin < 0 || end < begin)
    throw new Error('README.md has lost its marks');
  return `${document.slice(0, begin)}${tableMarks[0]}\n\n${lines.join('\n')}\n\n${document.slice(end)}`;
}

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const machine = machineFacts();
const rows = await measureKernels(values.quick ? quickEffort : fullEffort);
const facts = Object.entries(machine).map(([name, value]) => `${name} ${String(value)}`);
const lines = [facts.join(', '), ...kernelLines(rows)];
if (values.save) {
  const here = import.meta.dirname;
  const readme = path.join(here, 'README.md');
  writeFileSync(path.join(here, 'results.json'), resultsText(machine, rows));
  writeFileSync(readme, replaceTable(readFileSync(readme, 'utf8'), lines));
}
process.stdout.write(values.json ? `${JSON.stringify({ machine, rows })}\n` : `${lines.join('\n')}\n`);

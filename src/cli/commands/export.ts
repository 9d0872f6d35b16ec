import * as path from 'node:path';
import { type Command, Option } from 'commander';
import type { CliContext } from '../context.ts';
import { bytesText, printJson, progressBar, say, timeText } from '../output.ts';
import { addJson, type Options, pointOption } from '../options.ts';
import type { PointChoice } from '../roles.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';
import { Problem } from '../../kit/problem.ts';
import { interruptible } from '../waiting.ts';

const about = `
A raw export that was cut short left <path>.part behind; run it again and it goes on: what is right in there is kept,
block by block, by its checksum. The same goes for a block device. A qcow2 export begins anew.`;

interface ExportOptions extends Options {
  readonly point: PointChoice;
  readonly to: string;
  readonly format: 'raw' | 'qcow2';
  readonly compress?: boolean;
  readonly yes?: boolean;
  readonly json?: boolean;
}

export function addExport(program: Command, context: CliContext): void {
  const command = program
    .command('export')
    .description('write a disk as of a recovery point to a file or block device');
  addJson(addVaultOptions(command))
    .argument('<machine>', 'whose disk')
    .argument('[disk]', 'which disk; may be left out when there is only one')
    .addOption(pointOption())
    .requiredOption('--to <path>', 'file or block device to write')
    .addOption(new Option('--format <format>', 'of a file').choices(['raw', 'qcow2']).default('raw'))
    .option('--compress', 'with --format qcow2: compressed')
    .option('--yes', 'overwrite the file, or what is on the device')
    .addHelpText('after', about)
    .action(async (machine: string, disk: string | undefined, options: ExportOptions) => {
      const { terminal } = context;
      if (options.compress && options.format !== 'qcow2')
        throw new Problem('bad-argument', 'raw has no compression', { remedy: 'add --format qcow2' });
      const vault = await vaultOf(context, options);
      const request = {
        ...vault,
        machine,
        disk,
        point: options.point,
        to: path.resolve(options.to),
        overwrite: options.yes === true,
        format: options.format,
        compress: options.compress === true,
        programPath: context.environment['PATH'] ?? '',
      };
      const bar = progressBar(terminal, 'export');
      const report = await interruptible(context, (signal) => context.roles.exportPoint(request, bar, signal)).finally(
        () => bar.stop(),
      );
      if (options.json) {
        printJson(terminal, report);
        return;
      }
      const kept = report.keptBytes > 0 ? ` (${bytesText(report.keptBytes)} were there already)` : '';
      say(
        terminal,
        `${report.machine}/${report.disk} as of point ${report.point} (${timeText(report.cutTimeMs)}): ` +
          `${bytesText(report.size)}, ${bytesText(report.dataBytes)} of data${kept}, written to ${report.file}`,
      );
    });
}

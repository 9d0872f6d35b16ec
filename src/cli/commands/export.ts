import * as path from 'node:path';
import type { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { bytesText, printJson, progressBar, say, timeText } from '../output.ts';
import { addJson, type Options, pointOption } from '../options.ts';
import type { PointChoice } from '../roles.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';
import { interruptible } from '../waiting.ts';

interface ExportOptions extends Options {
  readonly point: PointChoice;
  readonly to: string;
  readonly yes?: boolean;
  readonly json?: boolean;
}

export function addExport(program: Command, context: CliContext): void {
  const command = program.command('export').description('write a disk as of a recovery point to a raw, sparse file');
  addJson(addVaultOptions(command))
    .argument('<machine>', 'whose disk')
    .argument('[disk]', 'which disk; may be left out when there is only one')
    .addOption(pointOption())
    .requiredOption('--to <file>', 'file to write')
    .option('--yes', 'overwrite the file')
    .action(async (machine: string, disk: string | undefined, options: ExportOptions) => {
      const { terminal } = context;
      const vault = await vaultOf(context, options);
      const request = {
        ...vault,
        machine,
        disk,
        point: options.point,
        to: path.resolve(options.to),
        overwrite: options.yes === true,
      };
      const bar = progressBar(terminal, 'export');
      const report = await interruptible(context, (signal) => context.roles.exportPoint(request, bar, signal)).finally(
        () => bar.stop(),
      );
      if (options.json) {
        printJson(terminal, report);
        return;
      }
      say(
        terminal,
        `${report.machine}/${report.disk} as of point ${report.point} (${timeText(report.cutTimeMs)}): ` +
          `${bytesText(report.size)}, ${bytesText(report.dataBytes)} of data, written to ${report.file}`,
      );
    });
}

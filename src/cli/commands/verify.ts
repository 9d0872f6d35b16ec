import { type Command, Option } from 'commander';
import type { CliContext } from '../context.ts';
import { printHealth, printJson, printTable, progressBar, secondsText } from '../output.ts';
import { addJson, type Options, parsePoint } from '../options.ts';
import type { PointChoice } from '../roles.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';
import { interruptible } from '../waiting.ts';

interface VerifyOptions extends Options {
  readonly point: PointChoice | 'all';
  readonly json?: boolean;
}

/** Exit code 1 when a block or a root does not match. */
export function addVerify(program: Command, context: CliContext): void {
  const command = program
    .command('verify')
    .description('read, decrypt and check every block of a point, and recompute its root');
  addJson(addVaultOptions(command))
    .argument('[machine]', 'only this machine')
    .argument('[disk]', 'only this disk')
    .addOption(
      new Option('--point <point>', 'number of the point, "latest", "proven" or "all"')
        .argParser((text: string) => (text === 'all' ? text : parsePoint(text)))
        .default('latest'),
    )
    .action(async (machine: string | undefined, disk: string | undefined, options: VerifyOptions) => {
      const { terminal } = context;
      const request = { ...(await vaultOf(context, options)), machine, disk, point: options.point };
      const bar = progressBar(terminal, 'verify');
      const report = await interruptible(context, (signal) => context.roles.verify(request, bar, signal)).finally(() =>
        bar.stop(),
      );
      if (!report.ok) context.exitWith('check-failed');
      if (options.json) {
        printJson(terminal, report);
        return;
      }
      const rows = report.points.map((point) => [
        point.machine,
        point.disk,
        String(point.point),
        point.ok ? 'ok' : 'DAMAGED',
        String(point.blocks),
        point.damagedBlocks.length === 0 ? '-' : point.damagedBlocks.join(' '),
        point.rootMatches ? 'matches' : 'DIFFERS',
      ]);
      printTable(terminal, ['MACHINE', 'DISK', 'POINT', 'RESULT', 'BLOCKS', 'DAMAGED BLOCKS', 'ROOT'], rows);
      printHealth(
        terminal,
        report.ok ? 'ok' : 'critical',
        `${report.points.length} checked in ${secondsText(report.seconds)}`,
      );
    });
}

import type { Command } from 'commander';
import { clientConfig } from '../../config.ts';
import type { CliContext } from '../context.ts';
import {
  bytesText,
  printHealth,
  printJson,
  printLine,
  printTable,
  secondsText,
  type Terminal,
  timeText,
} from '../output.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import type { StatusReport } from '../roles.ts';

function print(terminal: Terminal, report: StatusReport): void {
  printHealth(terminal, report.health, `at ${timeText(report.atMs)}`);
  const rows = report.machines.flatMap((machine) => [
    [
      machine.name,
      '',
      machine.health,
      timeText(machine.newestCommittedMs),
      timeText(machine.newestProvenMs),
      secondsText(machine.rpoActualSeconds),
      bytesText(machine.lagBytes),
      '',
    ],
    ...machine.disks.map((disk) => [
      '',
      disk.name,
      disk.health,
      timeText(disk.newestCommittedMs),
      timeText(disk.newestProvenMs),
      secondsText(disk.rpoActualSeconds),
      bytesText(disk.lagBytes),
      disk.phase ?? 'unknown',
    ]),
  ]);
  if (rows.length > 0)
    printTable(terminal, ['MACHINE', 'DISK', 'HEALTH', 'COMMITTED', 'PROVEN', 'BEHIND', 'LAG', 'PHASE'], rows);
  else printLine(terminal, 'no machine is protected');
  const judged = report.machines.flatMap((machine) => [
    { where: machine.name, reasons: machine.reasons },
    ...machine.disks.map((disk) => ({ where: `${machine.name}/${disk.name}`, reasons: disk.reasons })),
  ]);
  for (const { where, reasons } of [{ where: 'site', reasons: report.reasons }, ...judged]) {
    for (const { severity, message, remedy } of reasons)
      printHealth(terminal, severity, `${where}: ${message}; ${remedy}`);
  }
}

/** Exit code 1 when the answer to "am I protected" is no: health is critical. */
export function addStatus(program: Command, context: CliContext): void {
  const command = program
    .command('status')
    .description('am I protected, how far behind, and why (exit code 1: critical)');
  addJson(addConfigOptions(command, 'client'))
    .argument('[machine]', 'only this machine')
    .action(async (machine: string | undefined, options: Options) => {
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const report = await context.roles.status({ ...client, machine });
      if (report.health === 'critical') context.exitWith('check-failed');
      if (options['json'] === true) {
        printJson(context.terminal, report);
        return;
      }
      print(context.terminal, report);
    });
}

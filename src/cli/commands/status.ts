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
import type { DiskStatus, MachineStatus, StatusReport } from '../roles.ts';

/** `cycling`, or `resync 42 %` while every block is compared. */
function phaseText({ phase, resync }: DiskStatus): string {
  if (resync === null) return phase ?? 'unknown';
  return resync.phase === 'asked' || resync.phase === 'waiting' ? 'resync due' : `resync ${resync.percent} %`;
}

function recencyCells(of: DiskStatus | MachineStatus): string[] {
  return [
    of.health,
    timeText(of.newestCommittedMs),
    timeText(of.newestProvenMs),
    secondsText(of.rpoActualSeconds),
    bytesText(of.lagBytes),
  ];
}

function replicaLine(name: string, replica: NonNullable<MachineStatus['replica']>): string {
  const { points, oldestCutMs, longestSpacingMs, pinned, storedBytes, liveBytes, checkedRatio, failovers } = replica;
  return [
    `${name}: ${points} points since ${timeText(oldestCutMs)}`,
    ...(longestSpacingMs === null ? [] : [`at most ${secondsText(longestSpacingMs / 1000)} apart`]),
    ...(pinned > 0 ? [`${pinned} pinned`] : []),
    ...(storedBytes === null ? [] : [`${bytesText(storedBytes)} stored, ${bytesText(liveBytes)} of it live`]),
    ...(checkedRatio === null ? [] : [`${Math.floor(100 * checkedRatio)} % checked again`]),
    ...(failovers.length > 0 ? [`started elsewhere: ${failovers.join(', ')}`] : []),
  ].join(', ');
}

function print(terminal: Terminal, report: StatusReport): void {
  printHealth(terminal, report.health, `at ${timeText(report.atMs)}`);
  const rows = report.machines.flatMap((machine) => [
    [machine.name, '', ...recencyCells(machine), machine.consistency ?? 'unknown', ''],
    ...machine.disks.map((disk) => ['', disk.name, ...recencyCells(disk), '', phaseText(disk)]),
  ]);
  if (rows.length > 0)
    printTable(terminal, ['MACHINE', 'DISK', 'HEALTH', 'COMMITTED', 'PROVEN', 'BEHIND', 'LAG', 'CLAIM', 'PHASE'], rows);
  else printLine(terminal, 'no machine is protected');
  const judged = report.machines.flatMap((machine) => [
    { where: machine.name, reasons: machine.reasons },
    ...machine.disks.map((disk) => ({ where: `${machine.name}/${disk.name}`, reasons: disk.reasons })),
  ]);
  for (const { name, replica } of report.machines) if (replica) printLine(terminal, replicaLine(name, replica));
  for (const { name, booted } of report.machines) {
    if (booted === null) continue;
    const { point, atMs, seconds } = booted;
    printLine(terminal, `${name}: point ${point} was started at ${timeText(atMs)} and answered after ${seconds} s`);
  }
  for (const { name, gaps } of report.machines) {
    for (const { points, reason } of gaps)
      printLine(terminal, `${name}: ${points} points that were due since the agent started were not made (${reason})`);
  }
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

import type { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { bytesText, printJson, printTable, timeText } from '../output.ts';
import { addJson, type Options } from '../options.ts';
import type { GapReport, PointReport, PointsReport } from '../roles.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';

const heads = ['MACHINE', 'POINT', 'CUT', 'STATE', 'KIND', 'DISK', 'SIZE', 'CYCLE', 'ADDED', 'ROOT', 'NOTE'];

function bootedNote({ booted }: PointReport): string | null {
  return booted && `bootable at ${timeText(booted.atMs)}: ${booted.detail} after ${booted.seconds} s`;
}

function pointRows(point: PointReport): string[][] {
  return point.disks.map((disk) => [
    point.machine,
    String(point.point),
    timeText(point.cutTimeMs),
    point.damaged ? 'damaged' : point.provenMs === null ? 'committed' : 'proven',
    point.consistency,
    disk.name,
    bytesText(disk.size),
    disk.kind,
    bytesText(disk.payloadBytes),
    disk.root.slice(0, 16),
    [point.evidence, bootedNote(point)].filter((note) => note !== null).join('; '),
  ]);
}

function gapRow({ machine, atMs, points, reason, detail }: GapReport): string[] {
  const note = `${points} ${points === 1 ? 'point was' : 'points were'} due (${reason}): ${detail}`;
  return [machine, '-', timeText(atMs), 'gap', '-', '-', '-', '-', '-', '-', note];
}

/** Per machine: the gaps before its first point, then each point with the gaps behind it. */
function rowsOf({ points, gaps }: PointsReport): string[][] {
  const machines = new Set([...points, ...gaps].map(({ machine }) => machine));
  return [...machines].flatMap((machine) => {
    const ownGaps = gaps.filter((gap) => gap.machine === machine);
    const gapsAfter = (point: number | null): string[][] =>
      ownGaps.filter(({ afterPoint }) => afterPoint === point).map(gapRow);
    const ownPoints = points.filter((point) => point.machine === machine);
    return [...gapsAfter(null), ...ownPoints.flatMap((point) => [...pointRows(point), ...gapsAfter(point.point)])];
  });
}

export function addPoints(program: Command, context: CliContext): void {
  const command = program
    .command('points')
    .description("list recovery points and the gaps between them, from a target's directory");
  addJson(addVaultOptions(command))
    .argument('[machine]', 'only of this machine')
    .action(async (machine: string | undefined, options: Options) => {
      const report = await context.roles.listPoints({ ...(await vaultOf(context, options)), machine });
      if (options['json'] === true) printJson(context.terminal, report);
      else printTable(context.terminal, heads, rowsOf(report));
    });
}

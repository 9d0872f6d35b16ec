import { type Command, Option } from 'commander';
import { Problem } from '../../kit/problem.ts';
import type { CliContext } from '../context.ts';
import { bytesText, printJson, printTable, timeText } from '../output.ts';
import { addJson, type Options, wholeNumber } from '../options.ts';
import type { GapReport, PointReport, PointsReport } from '../roles.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';

interface PointsOptions extends Options {
  readonly pin?: number;
  readonly unpin?: number;
  readonly json?: boolean;
}

const number = wholeNumber(1, Number.MAX_SAFE_INTEGER);
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
    [point.evidence, bootedNote(point), point.pinned ? 'pinned' : null].filter((note) => note !== null).join('; '),
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
    .addOption(new Option('--pin <point>', 'keep this point whatever the policy says').argParser(number))
    .addOption(new Option('--unpin <point>', 'let the policy decide again').argParser(number).conflicts('pin'))
    .action(async (machine: string | undefined, options: PointsOptions) => {
      const { pin, unpin, json } = options;
      const vault = await vaultOf(context, options);
      const point = pin ?? unpin;
      if (point !== undefined) {
        if (machine === undefined)
          throw new Problem('bad-argument', 'whose point is not said', { remedy: 'name the machine before --pin' });
        await context.roles.pinPoint({ ...vault, machine, point, pinned: pin !== undefined });
      }
      const report = await context.roles.listPoints({ ...vault, machine });
      if (json === true) printJson(context.terminal, report);
      else printTable(context.terminal, heads, rowsOf(report));
    });
}

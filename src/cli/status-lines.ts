/**
 * The status report as lines of text, for someone who was woken up: a table with a row per machine and one per disk, then what binds and what is to be
 * expected, then every reason with what to do. As wide as it needs to be, or as wide as the terminal: then columns are left out, the least urgent
 * first, and long lines are broken between words. Pure.
 */
import { bitRateText } from '../kit/figures.ts';
import { bytesText, clean, countText, healthWord, roomOn, secondsText, type Terminal, timeText } from './output.ts';
import type { DiskStatus, MachineStatus, StatusReport } from './status-report.ts';

const dayMs = 24 * 3600 * 1000;

/** `03:12:05Z`; with its date where that is another day than `nowMs`. */
function clockText(ms: number | null, nowMs: number): string {
  if (ms === null) return '-';
  const text = timeText(ms);
  return Math.floor(ms / dayMs) === Math.floor(nowMs / dayMs) ? `${text.slice(11, 19)}Z` : `${text.slice(0, 19)}Z`;
}

/** `cycling`, or `resync 42 %` while every block is compared. */
function phaseText({ phase, resync }: DiskStatus): string {
  if (resync === null) return phase ?? 'unknown';
  return resync.phase === 'asked' || resync.phase === 'waiting' ? 'resync due' : `resync ${resync.percent} %`;
}

function nextText({ next }: MachineStatus, nowMs: number): string {
  const [soonest] = next;
  return soonest ? `${soonest.what} ${clockText(soonest.atMs, nowMs)}` : '-';
}

interface Row {
  readonly of: MachineStatus | DiskStatus;
  readonly name: string;
  readonly next: string;
  readonly phase: string;
}

/** In the order in which they are shown; those of the highest number are left out first where there is not enough room. */
const columns: readonly (readonly [head: string, leaveOut: number, cell: (row: Row, nowMs: number) => string])[] = [
  ['HEALTH', 0, ({ of }) => of.health],
  ['MACHINE', 0, ({ name }) => name],
  ['TARGET', 2, ({ of }) => secondsText(of.rpoTargetSeconds)],
  ['EVERY', 6, ({ of }) => secondsText(of.rpoIntervalSeconds)],
  ['ACTUAL', 0, ({ of }) => secondsText(of.rpoActualSeconds)],
  ['BEHIND', 1, ({ of }) => bytesText(of.lagBytes)],
  ['STAGE', 0, ({ of }) => of.stage?.name ?? '-'],
  ['NEWEST', 5, ({ of }, nowMs) => clockText(of.newestCommittedMs, nowMs)],
  ['PROVEN', 4, ({ of }, nowMs) => clockText(of.newestProvenMs, nowMs)],
  ['NEXT', 7, ({ next }) => next],
  ['PHASE', 3, ({ phase }) => phase],
];

function rowsOf({ machines, atMs }: StatusReport): Row[] {
  return machines.flatMap((machine) => [
    { of: machine, name: machine.name, next: nextText(machine, atMs), phase: '' },
    ...machine.disks.map((disk) => ({ of: disk, name: `  ${disk.name}`, next: '', phase: phaseText(disk) })),
  ]);
}

const gap = '  ';

function tableLines(terminal: Terminal, report: StatusReport, width: number): string[] {
  const rows = rowsOf(report);
  const all = columns.map(([head, leaveOut, cell]) => {
    const cells = [head, ...rows.map((row) => clean(cell(row, report.atMs)))];
    return { leaveOut, cells, width: Math.max(...cells.map((text) => text.length)) };
  });
  let shown = all;
  const widthOf = (): number => shown.reduce((sum, column) => sum + column.width + gap.length, -gap.length);
  for (let most = 7; most > 0 && widthOf() > width; most -= 1) shown = shown.filter(({ leaveOut }) => leaveOut < most);
  return [-1, ...rows.keys()].map((index) => {
    const [first = '', ...others] = shown.map((column) => (column.cells[index + 1] ?? '').padEnd(column.width));
    const rest = others
      .join(gap)
      .trimEnd()
      .slice(0, Math.max(0, width - first.length - gap.length));
    return `${healthWord(terminal, first)}${gap}${rest}`;
  });
}

/** Broken between words, what follows indented. */
function broken(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of clean(text).split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = `    ${word}`;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

function replicaText(name: string, replica: NonNullable<MachineStatus['replica']>): string {
  const { points, oldestCutMs, longestSpacingMs, pinned, storedBytes, liveBytes, checkedRatio, failovers } = replica;
  return [
    `${name}: ${countText(points, 'point')} since ${timeText(oldestCutMs)}`,
    ...(longestSpacingMs === null ? [] : [`at most ${secondsText(longestSpacingMs / 1000)} apart`]),
    ...(pinned > 0 ? [`${pinned} pinned`] : []),
    ...(storedBytes === null ? [] : [`${bytesText(storedBytes)} stored, ${bytesText(liveBytes)} of it live`]),
    ...(checkedRatio === null ? [] : [`${Math.floor(100 * checkedRatio)} % checked again`]),
    ...(failovers.length > 0 ? [`started elsewhere: ${failovers.join(', ')}`] : []),
  ].join(', ');
}

function forecastText({
  breachInSeconds,
  caughtUpInSeconds,
  ...rates
}: NonNullable<MachineStatus['forecast']>): string {
  const { needsBytesPerSecond, hasBytesPerSecond } = rates;
  const has = `needs ${bitRateText(needsBytesPerSecond)}, has ${bitRateText(hasBytesPerSecond)}`;
  if (breachInSeconds !== null && breachInSeconds > 0)
    return `the RPO target is breached in ${secondsText(breachInSeconds)} at this churn and drain rate; ${has}`;
  const then = caughtUpInSeconds === null ? 'never caught up' : `caught up in ${secondsText(caughtUpInSeconds)}`;
  return breachInSeconds === 0 ? `the RPO target is breached; ${then} at this churn and drain rate; ${has}` : '';
}

/** What binds, what is to be expected, what else is known. */
function machineTexts({ name, stage, forecast, spooled, consistency, replica, booted, gaps }: MachineStatus): string[] {
  const expected = forecast ? forecastText(forecast) : '';
  return [
    ...(stage ? [`${name}: ${stage.name} binds: ${stage.why}`] : []),
    ...(expected === '' ? [] : [`${name}: ${expected}`]),
    ...(spooled && spooled.bytes > 0
      ? [
          `${name}: ${bytesText(spooled.bytes)} and ${countText(spooled.points, 'point')} wait in the spool of its process server`,
        ]
      : []),
    ...(consistency === 'none' ? [`${name}: its points claim nothing: a disk is read while it may be written to`] : []),
    ...(replica ? [replicaText(name, replica)] : []),
    ...(booted
      ? [
          `${name}: point ${booted.point} was started at ${timeText(booted.atMs)} and answered after ${booted.seconds} s`,
        ]
      : []),
    ...gaps.map(
      ({ points, reason }) =>
        `${name}: ${countText(points, 'point')} not made since the agent started, though due (${reason})`,
    ),
  ];
}

/** Coloured as the terminal says; no line is wider than its columns. */
export function statusLines(terminal: Terminal, report: StatusReport): string[] {
  const width = roomOn(terminal).columns;
  const coloured = (word: 'ok' | 'warning' | 'critical', text: string): string[] => {
    const [first = '', ...others] = broken(`${word} ${text}`, width);
    return [`${healthWord(terminal, word)}${first.slice(word.length)}`, ...others];
  };
  const machines = report.machines.flatMap((machine) => [
    { where: machine.name, reasons: machine.reasons },
    ...machine.disks.map((disk) => ({ where: `${machine.name}/${disk.name}`, reasons: disk.reasons })),
  ]);
  const spools = report.spools.map(
    ({ processServer, level, usedBytes, limitBytes }) =>
      `spool of ${processServer}: ${bytesText(usedBytes)} of ${bytesText(limitBytes)} used (${level})`,
  );
  return [
    ...coloured(report.health, `at ${timeText(report.atMs)}`),
    ...(report.machines.length > 0 ? tableLines(terminal, report, width) : ['no machine is protected']),
    ...[...report.machines.flatMap(machineTexts), ...spools].flatMap((text) => broken(text, width)),
    ...[{ where: 'site', reasons: report.reasons }, ...machines].flatMap(({ where, reasons }) =>
      reasons.flatMap(({ severity, message, remedy }) => coloured(severity, `${where}: ${message}; ${remedy}`)),
    ),
  ];
}

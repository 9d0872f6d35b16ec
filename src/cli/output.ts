/**
 * Everything the command line prints. Data goes to stdout, and nothing else does; messages, progress and problems go to stderr.
 * Colour and progress bars appear on a terminal only, and NO_COLOR is kept.
 */
import cliProgress from 'cli-progress';
import { exitCodeFor, exitCodes } from '../fatal.ts';
import { durationText } from '../kit/figures.ts';
import { isProblem, messageOf } from '../kit/problem.ts';
import { GiB, KiB, MiB } from '../kit/sizes.ts';
import type { Progress } from './roles.ts';

export interface Terminal {
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream;
  readonly stdoutIsTerminal: boolean;
  readonly stderrIsTerminal: boolean;
  /** False with NO_COLOR. */
  readonly colour: boolean;
  /** Of standard output, in characters, as it is now, 0: it does not say; undefined: it is no terminal. */
  readonly size?: () => { readonly columns: number; readonly rows: number } | undefined;
}

const bold = 1;
const red = 31;
const yellow = 33;
const green = 32;

function paint(on: boolean, code: number, text: string): string {
  return on ? `\u001b[${code}m${text}\u001b[0m` : text;
}

/** Peers send some of what is printed: no control character of theirs reaches a terminal. */
export const clean = (text: string): string => text.replace(/\p{Cc}/gu, ' ');

/** One JSON value, one line. */
export function printJson(terminal: Terminal, value: unknown): void {
  terminal.stdout.write(`${JSON.stringify(value)}\n`);
}

export function printLine(terminal: Terminal, text: string): void {
  terminal.stdout.write(`${clean(text)}\n`);
}

/** A message for people, on stderr. */
export function say(terminal: Terminal, text: string): void {
  terminal.stderr.write(`${clean(text)}\n`);
}

/** Columns as wide as their widest cell. `rows` may be empty. */
export function printTable(terminal: Terminal, heads: readonly string[], rows: readonly (readonly string[])[]): void {
  const cells = [heads, ...rows].map((row) => heads.map((_, column) => clean(row[column] ?? '')));
  const widths = heads.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  cells.forEach((row, index) => {
    const line = row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
    terminal.stdout.write(`${index === 0 ? paint(terminal.stdoutIsTerminal && terminal.colour, bold, line) : line}\n`);
  });
}

const healthColours: Readonly<Record<string, number>> = { ok: green, warning: yellow, critical: red };

/** A word of health in its colour; spaces around it do not matter. The codes must not count as width. */
export function healthWord(terminal: Terminal, word: string): string {
  return paint(terminal.stdoutIsTerminal && terminal.colour, healthColours[word.trim()] ?? bold, word);
}

/** As `printLine`, for a line that is coloured already; `text` is cleaned, `word` is not. */
export function printHealth(terminal: Terminal, word: 'ok' | 'warning' | 'critical', text: string): void {
  terminal.stdout.write(`${healthWord(terminal, word)} ${clean(text)}\n`);
}

export function bytesText(bytes: number | null): string {
  if (bytes === null) return 'unknown';
  const [unit, name] =
    bytes >= GiB ? [GiB, 'GiB'] : bytes >= MiB ? [MiB, 'MiB'] : bytes >= KiB ? [KiB, 'KiB'] : [1, 'B'];
  return `${Number((bytes / unit).toFixed(unit === 1 ? 0 : 1))} ${name}`;
}

/** `1 point`, `2 points`. */
export function countText(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** What has room on standard output: without end where it is no terminal, as usual where one does not say (serial consoles). */
export function roomOn(terminal: Terminal): { readonly columns: number; readonly rows: number } {
  const { columns, rows } = terminal.size?.() ?? { columns: Infinity, rows: Infinity };
  return { columns: columns > 0 ? columns : 80, rows: rows > 0 ? rows : 24 };
}

/** ISO 8601, UTC; `-` when not known. */
export function timeText(ms: number | null): string {
  return ms === null ? '-' : new Date(ms).toISOString();
}

export function secondsText(seconds: number | null): string {
  return seconds === null ? 'unknown' : durationText(seconds);
}

/** A bar on a terminal, nothing elsewhere. Call `stop` whatever happens. */
export function progressBar(terminal: Terminal, what: string): Progress & { stop(): void } {
  if (!terminal.stderrIsTerminal) return { report: () => undefined, stop: () => undefined };
  const bar = new cliProgress.SingleBar({
    stream: terminal.stderr,
    format: `${clean(what)} [{bar}] {percentage}% of {size}, {eta_formatted} left`,
    clearOnComplete: true,
    gracefulExit: false,
    hideCursor: true,
  });
  let started = false;
  return {
    report(doneBytes, totalBytes) {
      const payload = { size: bytesText(totalBytes) };
      if (started) bar.update(doneBytes, payload);
      else bar.start(totalBytes, doneBytes, payload);
      started = true;
    },
    stop: () => bar.stop(),
  };
}

/** Prints what was thrown, with its remedy. @returns the exit code it stands for. */
export function printProblem(terminal: Terminal, error: unknown): number {
  const label = paint(terminal.stderrIsTerminal && terminal.colour, red, 'tidemark:');
  if (isProblem(error)) {
    const remedy = error.remedy === '' ? '' : `  ${clean(error.remedy)}\n`;
    terminal.stderr.write(`${label} ${clean(error.message)} (${error.code})\n${remedy}`);
    return exitCodeFor(error.code);
  }
  const trace = error instanceof Error && error.stack !== undefined ? error.stack : messageOf(error);
  terminal.stderr.write(`${label} a bug in this program: ${clean(messageOf(error))}\n${trace}\n`);
  return exitCodes.internal.code;
}

/** For `--help`. */
export function exitCodeTable(): string {
  const rows = Object.entries(exitCodes).map(
    ([name, { code, meaning }]) => `  ${String(code).padStart(2)}  ${name.padEnd(22)}  ${meaning}`,
  );
  return ['', 'Exit codes:', ...rows].join('\n');
}

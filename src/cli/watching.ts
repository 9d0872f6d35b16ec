/**
 * A text that is drawn on a terminal again and again, in place, until a signal comes; what stood there last stays. What can not be asked for
 * just now is said above what was known last, and asked for again: whoever watches wants to see it come back.
 */
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import type { CliContext } from './context.ts';
import { clean, healthWord, roomOn } from './output.ts';

const hideCursor = '\u001b[?25l';
const showCursor = '\u001b[?25h';
const clearScreen = '\u001b[2J';
const home = '\u001b[H';
const clearRestOfLine = '\u001b[K';
const clearBelow = '\u001b[J';

/** As many as fit; the last row stays free for the cursor. */
function cropped(lines: readonly string[], rows: number): string[] {
  if (lines.length < rows) return [...lines];
  const shown = Math.max(1, rows - 2);
  return [
    ...lines.slice(0, shown),
    `… ${lines.length - shown} more lines: make the terminal higher, or name one machine`,
  ];
}

/**
 * @param lines asks and answers what to draw. Problems are shown and it is asked again; anything else it throws ends the watch.
 * @throws Problem `bad-argument`: standard output is no terminal.
 */
export async function watch(
  context: CliContext,
  everyMs: number,
  lines: () => Promise<readonly string[]>,
): Promise<void> {
  const { terminal, clock } = context;
  if (!terminal.stdoutIsTerminal) {
    throw new Problem('bad-argument', '--watch draws on a terminal, and standard output is none', {
      remedy: 'leave it out, and ask again with --json as often as you like',
    });
  }
  const ending = new AbortController();
  const ended = new Promise<null>((resolve) => {
    ending.signal.addEventListener('abort', () => resolve(null));
  });
  const forget = context.onSignal(() => ending.abort());
  const ask = async (): Promise<readonly string[]> => {
    try {
      last = await lines();
      return last;
    } catch (error) {
      if (!isProblem(error)) throw error;
      const why = `${clean(messageOf(error))}; ${clean(error.remedy)}`;
      return [
        `${healthWord(terminal, 'critical')} no answer: ${why}`,
        ...(last.length > 0 ? ['What was known last:'] : []),
        ...last,
      ];
    }
  };
  let last: readonly string[] = [];
  terminal.stdout.write(`${hideCursor}${clearScreen}`);
  try {
    while (!ending.signal.aborted) {
      const drawn = await Promise.race([ask(), ended]);
      if (drawn === null) break;
      const rows = roomOn(terminal).rows;
      const frame = cropped(drawn, rows).map((line) => `${line}${clearRestOfLine}\r\n`);
      terminal.stdout.write(`${home}${frame.join('')}${clearBelow}`);
      await clock.sleep(everyMs, ending.signal).catch(() => undefined);
    }
  } finally {
    forget();
    terminal.stdout.write(showCursor);
  }
}

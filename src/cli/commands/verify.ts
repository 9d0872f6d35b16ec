import { type Command, Option } from 'commander';
import type { CliContext } from '../context.ts';
import { printHealth, printJson, printLine, progressBar, say, secondsText } from '../output.ts';
import { addJson, type Options, parsePoint } from '../options.ts';
import type { PointChoice, VerifiedPoint, VerifyReport } from '../roles.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';
import { interruptible } from '../waiting.ts';

interface VerifyOptions extends Options {
  readonly point: PointChoice | 'all';
  readonly key: boolean;
  readonly json?: boolean;
}

const about = `
Needs the files of the target and the vault key, nothing that runs; changes nothing, and may run beside the target. Takes about
100 bytes per stored record in TMPDIR.
One line per disk says which points are good: each has every record its root names, and every block of it can be opened and
matches its checksum. What is stored is looked at once, however many points share it.
With --point one point is checked: its root and its blocks; digests of what it does not need are left out.
Without a key (--no-key, or no key file) headers, digests, chains, extents and roots are checked, and no content.
Exit codes: 0 all good; 1 something is damaged; 9 no key file, and all that can be told without is good.
From files alone nobody can tell that points.log was put back to an older state when nothing was written after it; the agent can.`;

/** `1-4, 7` */
function ranges(points: readonly number[]): string {
  const found: { first: number; last: number }[] = [];
  for (const point of points) {
    const last = found.at(-1);
    if (last && point === last.last + 1) last.last = point;
    else found.push({ first: point, last: point });
  }
  return found.map(({ first, last }) => (first === last ? String(first) : `${first}-${last}`)).join(', ');
}

function damageOf({ point, damagedBlocks, damagedBlockCount, rootMatches, blocks }: VerifiedPoint): string {
  const more = damagedBlockCount > damagedBlocks.length ? ', …' : '';
  const what = [
    ...(rootMatches ? [] : ['root DIFFERS']),
    ...(damagedBlockCount > 0 ? [`${damagedBlockCount} blocks: ${damagedBlocks.join(' ')}${more}`] : []),
    ...(rootMatches && damagedBlockCount === 0 && blocks === null ? ['content could not be checked'] : []),
  ];
  return `${point} (${what.join('; ')})`;
}

/** Points of a disk with the same damage are many: the first ones are enough on a line, `--json` has all. */
const damagedShown = 8;

function lineOf(disk: string, points: readonly VerifiedPoint[]): string {
  const good = points.filter(({ ok }) => ok).map(({ point }) => point);
  const bad = points.filter(({ ok }) => !ok);
  const goodText = good.length > 0 ? `points good: ${ranges(good)}` : 'no point is good';
  if (bad.length === 0) return `${disk}  ${goodText}`;
  const rest = bad.slice(damagedShown);
  const more = rest.length > 0 ? `, ${ranges(rest.map(({ point }) => point))}` : '';
  return `${disk}  ${goodText}; DAMAGED: ${bad.slice(0, damagedShown).map(damageOf).join(', ')}${more}`;
}

function print({ terminal }: CliContext, report: VerifyReport): void {
  for (const [disk, points] of Map.groupBy(report.points, ({ machine, disk: name }) => `${machine}/${name}`))
    printLine(terminal, lineOf(disk, points));
  for (const { machine, findings } of report.machines)
    for (const { severity, text } of findings) printLine(terminal, `${machine}: ${severity}: ${text}`);
  if (report.content !== 'checked')
    printLine(terminal, 'not checked, for lack of the key: that content can be opened, and that it matches its leaves');
  if (report.bodies !== 'checked') printLine(terminal, 'not checked: digests of what the point does not need');
  printHealth(
    terminal,
    report.ok ? 'ok' : 'critical',
    `${report.points.length} points of disks checked in ${secondsText(report.seconds)}`,
  );
}

export function addVerify(program: Command, context: CliContext): void {
  const command = program.command('verify').description('tell from the files alone which points are good');
  addJson(addVaultOptions(command))
    .argument('[machine]', 'only this machine')
    .argument('[disk]', 'only this disk')
    .addOption(
      new Option('--point <point>', 'number of the point, "latest", "proven" or "all"')
        .argParser((text: string) => (text === 'all' ? text : parsePoint(text)))
        .default('all'),
    )
    .option('--no-key', 'check what can be checked without the vault key')
    .addHelpText('after', about)
    .action(async (machine: string | undefined, disk: string | undefined, options: VerifyOptions) => {
      const { terminal } = context;
      const vault = await vaultOf(context, options);
      const request = { ...vault, machine, disk, point: options.point, content: options.key };
      const bar = progressBar(terminal, 'verify');
      const report = await interruptible(context, (signal) => context.roles.verify(request, bar, signal)).finally(() =>
        bar.stop(),
      );
      if (!report.ok) context.exitWith('check-failed');
      else if (report.content === 'no-key') context.exitWith('no-key');
      if (report.content === 'no-key') {
        const remedy = 'name the recovery file written by `tidemark key export` with --vault, or pass --no-key';
        say(terminal, `tidemark: the vault key ${vault.vault} does not exist, content was not checked; ${remedy}`);
      }
      if (options.json) printJson(terminal, report);
      else print(context, report);
    });
}

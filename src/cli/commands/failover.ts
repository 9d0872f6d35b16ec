/** `tidemark failover …`: parses, asks where something can not be taken back, prints. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { Problem } from '../../kit/problem.ts';
import { limits } from '../../limits.ts';
import { confirm } from '../confirm.ts';
import type { CliContext } from '../context.ts';
import type { BootedReport, FailoverReport, FailoverRequest } from '../failover-roles.ts';
import { addJson, type Options, parsePoint, parseSize, wholeNumber } from '../options.ts';
import { printJson, printLine, printTable, say, type Terminal, timeText } from '../output.ts';
import type { PointChoice } from '../roles.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';
import { interruptible, serve } from '../waiting.ts';

const { boot } = limits.recovery;

interface StartOptions extends Options {
  readonly point?: PointChoice;
  readonly at?: number;
  readonly listen: 'unix' | 'tcp' | 'tls';
  readonly address?: string;
  readonly space?: number;
  readonly json?: boolean;
}
interface BootOptions extends StartOptions {
  readonly boot?: boolean;
  readonly probe: string;
  readonly bootTimeout: number;
  readonly keepRunning?: boolean;
}
interface WithYes extends Options {
  readonly yes?: boolean;
  readonly json?: boolean;
}

function parseTime(text: string): number {
  const isTime = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)$/.test(text);
  const atMs = isTime ? Date.parse(text.replace(' ', 'T')) : Number.NaN;
  if (Number.isFinite(atMs)) return atMs;
  throw new InvalidArgumentError('Not a time: write 2026-01-31T22:15:00Z, or with +01:00 in place of Z.');
}

/** Options of what starts a failover. */
function addStart(command: Command): Command {
  return addJson(addVaultOptions(command))
    .argument('<machine>', 'which machine')
    .addOption(
      new Option('--point <point>', 'number of the point, "latest" or "proven" (default)').argParser(parsePoint),
    )
    .addOption(
      new Option('--at <time>', 'the newest proven point that is not later (RFC 3339)')
        .argParser(parseTime)
        .conflicts('point'),
    )
    .addOption(
      new Option('--listen <how>', 'a Unix socket; TCP on the loopback address; or TCP with TLS and certificates')
        .choices(['unix', 'tcp', 'tls'])
        .default('unix'),
    )
    .option('--address <address>', 'with --listen tls: an address of this host for clients on others to connect to')
    .addOption(
      new Option('--space <size>', 'how much may be written (such as 20G); reads go on above it').argParser(parseSize),
    );
}

async function requestOf(context: CliContext, machine: string, options: StartOptions): Promise<FailoverRequest> {
  const { point, at, space } = options;
  const vault = await vaultOf(context, options);
  return {
    ...vault,
    machine,
    point: at === undefined ? point : { atMs: at },
    listen: listenOf(options),
    spaceBytes: space,
  };
}

function listenOf({ listen, address }: StartOptions): FailoverRequest['listen'] {
  if (listen === 'tls') return { tls: address ?? '127.0.0.1' };
  if (address === undefined) return listen;
  throw new Problem('bad-argument', `--address ${address} is for TLS only: without it the disks are for this host`, {
    remedy: 'add --listen tls, or leave --address out',
  });
}

function printFailover({ terminal }: CliContext, report: FailoverReport, json: boolean): void {
  if (json) {
    printJson(terminal, report);
    return;
  }
  const { id, machine, point, cutTimeMs, state, disks, certificates, qemu, domainXml } = report;
  const cut = cutTimeMs === null ? '' : ` (${timeText(cutTimeMs)})`;
  say(terminal, `${id}: ${machine} as of point ${point}${cut}, ${state}`);
  for (const { uri } of disks) if (uri !== null) printLine(terminal, uri);
  if (certificates !== null) say(terminal, `certificates for clients, to be copied to where they run: ${certificates}`);
  for (const { name, qemuImage } of disks) if (qemuImage !== null) say(terminal, `${name} for qemu-img: ${qemuImage}`);
  if (qemu !== null) say(terminal, `start it with: ${qemu}`);
  else if (domainXml !== null) say(terminal, 'no QEMU command: no UEFI firmware is installed here (Debian: ovmf)');
  if (domainXml !== null) say(terminal, `as a libvirt domain: ${domainXml}`);
  sayTroubles(terminal, report);
}

function sayTroubles(terminal: Terminal, { machine, id, disks }: FailoverReport): void {
  for (const { name, trouble } of disks) {
    if (!trouble) continue;
    say(terminal, `disk ${name} of ${machine} in ${id}: ${trouble.message}`);
    say(terminal, `  ${trouble.remedy}`);
  }
}

function bootTest(context: CliContext, request: FailoverRequest, options: BootOptions): Promise<void> {
  const { probe, bootTimeout: answerSeconds, keepRunning = false, json = false } = options;
  const proven = (report: BootedReport): void => {
    printFailover(context, report, json);
    const { detail, seconds, accelerator, withoutKvm } = report.boot;
    const how = withoutKvm === null ? accelerator : `emulated: ${withoutKvm}`;
    say(context.terminal, `point ${report.point} is bootable: ${detail} after ${seconds} s (${how})`);
    if (keepRunning) say(context.terminal, 'the machine runs until this command is interrupted');
  };
  const unproven = (report: FailoverReport): void => {
    printFailover(context, report, json);
  };
  const wanted = { ...request, boot: { probe, answerSeconds, keepRunning } };
  return interruptible(context, (signal) => context.roles.bootTestFailover(wanted, { proven, unproven }, signal));
}

function addStarts(failover: Command, context: CliContext): void {
  addStart(
    failover.command('test').description('make the disks of a point writable over NBD, beside the running replication'),
  )
    .option('--boot', 'start the machine in an isolated QEMU, and see that it answers the probe')
    .option('--probe <probe>', 'serial:TEXT, agent, tcp:PORT or tcp:ADDRESS/PREFIX:PORT', 'serial:login:')
    .addOption(
      new Option('--boot-timeout <seconds>', 'how long the machine has to answer')
        .argParser(wholeNumber(1, boot.answerSecondsMax))
        .default(boot.answerSecondsDefault),
    )
    .option('--keep-running', 'with --boot: let the machine go on until this command is interrupted')
    .action(async (machine: string, options: BootOptions) => {
      const request = await requestOf(context, machine, options);
      if (options.boot === true) await bootTest(context, request, options);
      else printFailover(context, await context.roles.testFailover(request), options.json === true);
    });
  addStart(
    failover.command('unplanned').description('the source is gone: make the replica the primary and refuse the source'),
  )
    .option('--yes', 'do not ask')
    .action(async (machine: string, options: StartOptions & WithYes) => {
      const request = await requestOf(context, machine, options);
      const what = `the replica of ${machine} becomes the primary; the source is refused until that is cancelled`;
      await confirm(context, what, machine, options.yes === true);
      printFailover(context, await context.roles.unplannedFailover(request), options.json === true);
    });
}

function addEnds(failover: Command, context: CliContext): void {
  const { terminal } = context;
  const onMachine = (name: string, description: string): Command =>
    addJson(addVaultOptions(failover.command(name).description(description))).argument('<machine>', 'which machine');
  onMachine('cancel', 'end an unplanned failover: what was written there is lost, the source is the primary again')
    .option('--yes', 'do not ask')
    .action(async (machine: string, options: WithYes) => {
      const request = { ...(await vaultOf(context, options)), machine };
      await confirm(
        context,
        `what was written to ${machine} since its failover is lost`,
        machine,
        options.yes === true,
      );
      const ended = await context.roles.cancelFailover(request);
      if (options.json === true) printJson(terminal, ended);
      else say(terminal, `${ended.id} of ${machine} is cancelled; its source is the primary again`);
    });
  onMachine('commit', 'keep an unplanned failover: it can not be cancelled any more').action(
    async (machine: string, options: WithYes) => {
      const report = await context.roles.commitFailover({ ...(await vaultOf(context, options)), machine });
      printFailover(context, report, options.json === true);
    },
  );
  onMachine('cleanup', 'end a test and remove everything of it')
    .argument('[id]', 'which test; may be left out when there is only one')
    .option('--all', 'all tests of the machine')
    .action(async (machine: string, id: string | undefined, options: WithYes & { readonly all?: boolean }) => {
      const which = options.all === true ? 'all' : id === undefined ? undefined : { id };
      const ended = await context.roles.cleanUpFailovers({ ...(await vaultOf(context, options)), machine, which });
      if (options.json === true) printJson(terminal, ended);
      else
        say(
          terminal,
          ended.removed.length === 0 ? 'there was nothing to remove' : `removed: ${ended.removed.join(', ')}`,
        );
    });
}

const heads = ['MACHINE', 'FAILOVER', 'POINT', 'CUT', 'STATE', 'SERVED', 'DISK', 'WRITES', 'URI'];

function rowsOf(report: FailoverReport): string[][] {
  const { machine, id, point, cutTimeMs, state, served, disks } = report;
  const cut = cutTimeMs === null ? '-' : timeText(cutTimeMs);
  return disks.map(({ name, uri, trouble }) => [
    machine,
    id,
    String(point),
    cut,
    state,
    served ? 'yes' : 'no',
    name,
    uri === null ? '-' : (trouble?.code ?? 'ok'),
    uri ?? '-',
  ]);
}

export function addFailover(program: Command, context: CliContext): void {
  const failover = program.command('failover').description('start a machine elsewhere, from any of its points');
  addStarts(failover, context);
  addEnds(failover, context);
  addJson(addVaultOptions(failover.command('list').description('list failovers and where their disks can be reached')))
    .argument('[machine]', 'only of this machine')
    .action(async (machine: string | undefined, options: Options) => {
      const report = await context.roles.listFailovers({ ...(await vaultOf(context, options)), machine });
      const { terminal } = context;
      if (options['json'] === true) {
        printJson(terminal, report);
        return;
      }
      printTable(terminal, heads, report.failovers.flatMap(rowsOf));
      for (const each of report.failovers) sayTroubles(terminal, each);
    });
  addVaultOptions(failover.command('serve', { hidden: true }).description('serve one failover; started by the others'))
    .argument('<machine>')
    .argument('<id>')
    .action(async (machine: string, id: string, options: Options) => {
      const request = { ...(await vaultOf(context, options)), machine, id };
      await serve(context, 'failover', false, () => context.roles.serveFailover(request));
    });
}

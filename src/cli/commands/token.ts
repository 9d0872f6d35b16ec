import { type Command, Option } from 'commander';
import { clientConfig } from '../../config.ts';
import { limits } from '../../limits.ts';
import type { CliContext } from '../context.ts';
import { printJson, printLine, say, timeText } from '../output.ts';
import { addConfigOptions, addJson, type Options, sourcesOf, wholeNumber } from '../options.ts';
import type { EnrolledRole } from '../roles.ts';

interface TokenOptions extends Options {
  readonly role: EnrolledRole;
  readonly name?: string;
  readonly hours: number;
  readonly json?: boolean;
}

const hoursMax = limits.control.registrationKeyTtlSecondsMax / 3600;

/** The key is the data: it alone goes to stdout, so that `tidemark token create > key` does what it says. */
export function addToken(program: Command, context: CliContext): void {
  const token = program.command('token').description('registration keys');
  const create = token
    .command('create')
    .description('make a single-use registration key, with which one role can enroll');
  addJson(addConfigOptions(create, 'client'))
    .addOption(
      new Option('--role <role>', 'who may enroll with it')
        .choices(['agent', 'process-server', 'target'])
        .default('agent'),
    )
    .option('--name <name>', 'only this name may enroll with it')
    .addOption(new Option('--hours <hours>', 'how long it is valid').argParser(wholeNumber(1, hoursMax)).default(24))
    .action(async (options: TokenOptions) => {
      const client = clientConfig(await sourcesOf(context, 'client', options));
      const made = await context.roles.createToken({
        ...client,
        role: options.role,
        name: options.name,
        hours: options.hours,
      });
      if (options.json) {
        printJson(context.terminal, made);
        return;
      }
      printLine(context.terminal, made.registrationKey);
      say(
        context.terminal,
        `for one ${made.role}${made.name === undefined ? '' : ` named ${made.name}`}, valid until ${timeText(made.expiresMs)}`,
      );
    });
}

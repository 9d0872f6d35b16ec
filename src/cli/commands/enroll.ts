import * as path from 'node:path';
import { type Command, Option } from 'commander';
import { clientConfig } from '../../config.ts';
import { Problem } from '../../kit/problem.ts';
import type { CliContext } from '../context.ts';
import { printJson, say, timeText } from '../output.ts';
import { addConfigOptions, addJson, type Options, sourcesOf } from '../options.ts';
import type { EnrolledRole } from '../roles.ts';

interface EnrollOptions extends Options {
  readonly role: EnrolledRole;
  readonly keyFile: string;
  readonly into: string;
  readonly json?: boolean;
}

/** The registration key is a secret: it comes from a file or standard input, never from an argument. */
export function addEnroll(program: Command, context: CliContext): void {
  const command = program
    .command('enroll')
    .description('turn a registration key into a certificate; the private key stays here');
  addJson(addConfigOptions(command, 'client', ['credentials']))
    .argument('<name>', 'name in the certificate: of an agent, the machine')
    .requiredOption('--key-file <file>', 'file with the registration key, or - for standard input')
    .requiredOption('--into <dir>', 'directory for key and certificate')
    .addOption(
      new Option('--role <role>', 'what to enroll as').choices(['agent', 'process-server', 'target']).default('agent'),
    )
    .action(async (name: string, options: EnrollOptions) => {
      const { controlUrl } = clientConfig(await sourcesOf(context, 'client', options));
      const registrationKey = (await context.readText(options.keyFile)).trim();
      if (registrationKey === '') {
        throw new Problem('bad-argument', `${options.keyFile} is empty`, {
          remedy: 'make a key with `tidemark token create`',
        });
      }
      const into = path.resolve(options.into);
      const made = await context.roles.enroll({ controlUrl, registrationKey, role: options.role, name, into });
      if (options.json) {
        printJson(context.terminal, made);
        return;
      }
      say(
        context.terminal,
        `${made.role} ${made.name} enrolled: ${made.credentials}, valid until ${timeText(made.expiresMs)}`,
      );
    });
}

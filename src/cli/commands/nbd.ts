import * as path from 'node:path';
import { type Command, Option } from 'commander';
import { Problem } from '../../kit/problem.ts';
import type { CliContext } from '../context.ts';
import { addJson, type Options, pointOption, wholeNumber } from '../options.ts';
import type { NbdRequest, PointChoice } from '../roles.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';
import { serve } from '../waiting.ts';

interface NbdOptions extends Options {
  readonly point: PointChoice;
  readonly socket?: string;
  readonly port?: number;
  readonly json?: boolean;
}

function listenOf({ socket, port }: NbdOptions): NbdRequest['listen'] {
  if (socket !== undefined) return { socket: path.resolve(socket) };
  if (port !== undefined) return { host: '127.0.0.1', port };
  throw new Problem('bad-argument', 'where to serve is not said', { remedy: 'give --socket PATH or --port NUMBER' });
}

export function addNbd(program: Command, context: CliContext): void {
  const command = program
    .command('nbd')
    .description('serve a disk as of a recovery point over NBD, read-only, until interrupted');
  addJson(addVaultOptions(command))
    .argument('<machine>', 'whose disk')
    .argument('[disk]', 'which disk; may be left out when there is only one')
    .addOption(pointOption())
    .addOption(new Option('--socket <path>', 'Unix socket to listen on').conflicts('port'))
    .addOption(
      new Option('--port <number>', 'port of 127.0.0.1 to listen on; 0 is any').argParser(wholeNumber(0, 65_535)),
    )
    .action(async (machine: string, disk: string | undefined, options: NbdOptions) => {
      const listen = listenOf(options);
      const request = { ...(await vaultOf(context, options)), machine, disk, point: options.point, listen };
      await serve(context, 'nbd', options.json === true, () => context.roles.serveNbd(request));
    });
}

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
  readonly tls?: boolean;
  readonly address?: string;
  readonly json?: boolean;
}

function listenOf({ socket, port, tls = false, address }: NbdOptions): NbdRequest['listen'] {
  if (address !== undefined && !tls) {
    throw new Problem('bad-argument', `--address ${address} is for TLS only: without it the disk is for this host`, {
      remedy: 'add --tls, or leave --address out',
    });
  }
  if (socket !== undefined) return { socket: path.resolve(socket) };
  if (port !== undefined && tls) return { tls: { host: address ?? '127.0.0.1', port } };
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
    .addOption(new Option('--socket <path>', 'Unix socket to listen on').conflicts(['port', 'tls', 'address']))
    .addOption(
      new Option('--port <number>', 'port of 127.0.0.1 to listen on; 0 is any').argParser(wholeNumber(0, 65_535)),
    )
    .option('--tls', 'with --port: only clients with a certificate, made for this export')
    .option('--address <address>', 'with --tls: an address of this host for clients on others to connect to')
    .action(async (machine: string, disk: string | undefined, options: NbdOptions) => {
      const listen = listenOf(options);
      const request = { ...(await vaultOf(context, options)), machine, disk, point: options.point, listen };
      await serve(context, 'nbd', options.json === true, () => context.roles.serveNbd(request));
    });
}

/**
 * What users would pick instead of the product, moving the same image to a fresh file on the same disk with both ends on this machine.
 *
 *  - `rsync` into a daemon over plain TCP, as it is and with its own LZ4: pushed, as it is done to a second site.
 *  - `nbdcopy` and `qemu-img convert` over NBD with TLS and certificates on both sides, each in the direction in which it is faster: `nbdcopy` pushes
 *    into a `qemu-nbd` that serves the output, as at the migration of a disk; `qemu-img` pulls from one that serves the image, as at a backup.
 *  - `lz4 | openssl` and `zstd | openssl` into a file: no network at all.
 *
 * None of them makes durable what it wrote, keeps anything of the past, or both compresses and encrypts over a network, as the product does.
 *
 *  1. The clock runs from the start of the program that moves the bytes to its end; a server is ready before.
 *  2. CPU seconds are those of all processes of both sides: what this process waited for in between, less what the server had needed when the clock
 *     began. A server is asked to end when it has waited for its own children, so that none of them is lost.
 *  3. The first result is compared with the image, restored to what it was where it is not a copy.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, rm, stat, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { issueInMemory, openAuthority } from '../../src/transport/authority.ts';
import { firstDifference } from '../demo/compare.ts';
import { missingPrograms, runProgram, Server } from '../demo/programs.ts';
import type { Contender, Transfer } from './contender.ts';
import { cpuSecondsOf, diskWaitSeconds, hasChildren } from './cpu.ts';

export interface Peers {
  /** Those whose programs are installed. */
  readonly contenders: readonly Contender[];
  readonly absent: readonly AbsentPeer[];
}

export interface AbsentPeer {
  readonly name: string;
  /** Such as the program that is missing. */
  readonly why: string;
}

/** As in `Contender.name`, for who wants to compare with one of them. */
export const peerNames = {
  rsync: 'rsync',
  rsyncLz4: 'rsync -z --zc=lz4',
  nbdcopy: 'nbdcopy, NBD + TLS',
  qemuImg: 'qemu-img convert, NBD + TLS',
  lz4: 'lz4 -1 | openssl enc',
  zstd: 'zstd -1 -T2 | openssl enc',
} as const;

type Command = readonly [program: string, ...args: string[]];

interface Peer {
  readonly name: string;
  /** What it does less than the product. */
  readonly lacks: string;
  readonly programs: readonly string[];
  /** Listens on `port` of this machine. */
  readonly serve?: (port: number, output: string) => Command;
  /** The server writes to the output, which has to be there and as large as the image. */
  readonly servesOutput?: boolean;
  /** Moves the image to `output`. */
  readonly move: (output: string, port: number) => Command;
  /** Makes `copy` what the image was; absent where the output is. */
  readonly restore?: (output: string, copy: string) => Command;
}

interface Place {
  readonly image: string;
  readonly directory: string;
}

const address = '127.0.0.1';
const exportName = 'disk';

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on('error', reject);
    server.listen(0, address, () => {
      const bound = server.address();
      server.close(() => {
        resolve(typeof bound === 'object' && bound ? bound.port : 0);
      });
    });
  });
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, address);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => {
      resolve(false);
    });
  });
}

const cpuOfServer = async (pid: number): Promise<number> => {
  const { own, waited } = await cpuSecondsOf(pid);
  return own + waited;
};

class PeerContender implements Contender {
  readonly name: string;
  readonly #peer: Peer;
  readonly #place: Place;
  #isChecked = false;

  constructor(peer: Peer, place: Place) {
    this.name = peer.name;
    this.#peer = peer;
    this.#place = place;
  }

  async run(): Promise<Transfer> {
    const output = path.join(this.#place.directory, 'output');
    await rm(output, { force: true });
    try {
      const transfer = await this.#move(output);
      if (!this.#isChecked) await this.#check(output);
      this.#isChecked = true;
      return transfer;
    } finally {
      await rm(output, { force: true });
    }
  }

  async #move(output: string): Promise<Transfer> {
    const { serve, servesOutput, move, lacks } = this.#peer;
    if (servesOutput === true) await makeSparse(output, (await stat(this.#place.image)).size);
    const port = serve ? await freePort() : 0;
    const { waited: before } = await cpuSecondsOf('self');
    const server = serve ? await this.#start(serve(port, output), port) : null;
    try {
      const ofStart = server ? await cpuOfServer(server.pid) : 0;
      const diskBefore = await diskWaitSeconds();
      const [program, ...args] = move(output, port);
      const { seconds } = await runProgram(program, args);
      const diskAfter = await diskWaitSeconds();
      await server?.until('waiting for its children', async () => !(await hasChildren(server.pid)));
      await server?.stop();
      const cpuSeconds = (await cpuSecondsOf('self')).waited - before - ofStart;
      const diskWait = diskBefore === null || diskAfter === null ? null : diskAfter - diskBefore;
      return { seconds, cpuSeconds, remark: remarkOf(lacks, seconds, cpuSeconds, diskWait) };
    } finally {
      await server?.stop();
    }
  }

  async #start([program, ...args]: Command, port: number): Promise<Server> {
    const server = new Server(program, args);
    try {
      await server.until('serving', () => answers(port));
      // The look itself gave it a child.
      await server.until('waiting for its children', async () => !(await hasChildren(server.pid)));
    } catch (error) {
      await server.stop().catch(() => undefined);
      throw error;
    }
    return server;
  }

  async #check(output: string): Promise<void> {
    const { image, directory } = this.#place;
    const copy = path.join(directory, 'restored');
    try {
      const restore = this.#peer.restore?.(output, copy);
      if (restore) await runProgram(restore[0], restore.slice(1));
      const difference = await firstDifference(image, restore ? copy : output);
      if (difference !== null)
        throw new Error(`what ${this.name} made differs from the image from byte ${difference} on`);
    } finally {
      await rm(copy, { force: true });
    }
  }
}

async function makeSparse(name: string, size: number): Promise<void> {
  const file = await open(name, 'wx');
  try {
    await file.truncate(size);
  } finally {
    await file.close();
  }
}

function remarkOf(lacks: string, seconds: number, cpuSeconds: number, diskWaitSeconds: number | null): string {
  const busy = `${(cpuSeconds / seconds).toFixed(1)} processors at work`;
  if (diskWaitSeconds === null) return `${lacks}; ${busy}`;
  return `${lacks}; ${busy}, the disk was waited for ${Math.round((100 * diskWaitSeconds) / seconds)} % of the time`;
}

/** Configuration of a daemon that takes files into the directory. */
async function rsyncConfig(directory: string): Promise<string> {
  const file = path.join(directory, 'rsyncd.conf');
  // Without this root would write as nobody.
  const owner = process.getuid?.() === 0 ? ['uid = 0', 'gid = 0'] : [];
  const own = [`[out]`, `path = ${directory}`, 'read only = no', 'use chroot = no', ...owner];
  await writeFile(file, `${[`address = ${address}`, ...own].join('\n')}\n`);
  return file;
}

function rsyncPeer(name: string, { image }: Place, config: string, compression: readonly string[]): Peer {
  return {
    name,
    lacks: compression.length > 0 ? 'not encrypted' : 'neither compressed nor encrypted',
    programs: ['rsync'],
    serve: (port) => ['rsync', '--daemon', '--no-detach', `--config=${config}`, `--port=${port}`],
    move: (output, port) => [
      ...(['rsync', '--inplace', '--whole-file', ...compression] as const),
      ...[image, `rsync://${address}:${port}/out/${path.basename(output)}`],
    ],
  };
}

/** A certificate that both sides show each other, where QEMU and libnbd look for it. */
async function makeCertificates(directory: string): Promise<string> {
  const into = path.join(directory, 'certificates');
  await mkdir(into, { recursive: true });
  const authority = await openAuthority(posixFiles, path.join(directory, 'authority'), systemClock);
  const made = await issueInMemory(authority, { role: 'target', name: 'peer', days: 1 }, systemClock);
  await writeFile(path.join(into, 'ca-cert.pem'), made.caPem);
  for (const side of ['server', 'client']) {
    await writeFile(path.join(into, `${side}-cert.pem`), made.certPem);
    await writeFile(path.join(into, `${side}-key.pem`), made.keyPem, { mode: 0o600 });
  }
  return into;
}

function tlsObject(endpoint: 'server' | 'client', certificates: string): [string, string] {
  return ['--object', `tls-creds-x509,id=tls,endpoint=${endpoint},dir=${certificates},verify-peer=yes`];
}

function nbdPeers({ image }: Place, certificates: string): Peer[] {
  const lacks = 'not compressed';
  const serve = (port: number, file: string, ...more: string[]): Command => [
    ...(['qemu-nbd', '--persistent', '--shared=8', '--format=raw', '-x', exportName, ...more] as const),
    ...[...tlsObject('server', certificates), '--tls-creds', 'tls', '-b', address, '-p', String(port), file],
  ];
  const uri = (port: number): string => `nbds://${address}:${port}/${exportName}?tls-certificates=${certificates}`;
  const options = (port: number): string =>
    [
      ...['driver=raw', 'file.driver=nbd', 'file.server.type=inet', `file.server.host=${address}`],
      ...[`file.server.port=${port}`, `file.export=${exportName}`, 'file.tls-creds=tls'],
    ].join(',');
  const client = tlsObject('client', certificates);
  return [
    {
      name: peerNames.nbdcopy,
      lacks,
      programs: ['qemu-nbd', 'nbdcopy'],
      serve,
      servesOutput: true,
      move: (_, port) => ['nbdcopy', image, uri(port)],
    },
    {
      name: peerNames.qemuImg,
      lacks,
      programs: ['qemu-nbd', 'qemu-img'],
      serve: (port) => serve(port, image, '--read-only'),
      move: (output, port) => ['qemu-img', 'convert', ...client, '--image-opts', options(port), '-O', 'raw', output],
    },
  ];
}

/** `$1` and on instead of names in the text: no name needs quotes. */
function shell(line: string, ...words: readonly string[]): Command {
  return ['bash', '-c', `set -o pipefail; ${line}`, 'bash', ...words];
}

function pipedPeer(name: string, { image }: Place, keyFile: string, compress: string, restore: string): Peer {
  const cipher = 'openssl enc -aes-256-ctr -pbkdf2 -pass "file:$2"';
  const [program = ''] = compress.split(' ');
  return {
    name,
    lacks: 'no network',
    programs: ['bash', 'openssl', program],
    move: (output) => shell(`${compress} -c "$1" | ${cipher} -out "$3"`, image, keyFile, output),
    restore: (output, copy) => shell(`${cipher} -d -in "$1" | ${restore} > "$3"`, output, keyFile, copy),
  };
}

/**
 * `image` was read a moment ago; outputs are made in `directory`, on the disk that is measured, and removed. Both without a comma.
 * No other child of this process may end while one of them runs (2).
 */
export async function peersOf(image: string, directory: string, say: (text: string) => void): Promise<Peers> {
  const place = { image, directory };
  const config = await rsyncConfig(directory);
  const keyFile = path.join(directory, 'passphrase');
  await writeFile(keyFile, randomBytes(32).toString('hex'), { mode: 0o600 });
  const peers = [
    rsyncPeer(peerNames.rsync, place, config, []),
    rsyncPeer(peerNames.rsyncLz4, place, config, ['-z', '--zc=lz4']),
    ...nbdPeers(place, await makeCertificates(directory)),
    pipedPeer(peerNames.lz4, place, keyFile, 'lz4 -1', 'lz4 -dc'),
    pipedPeer(peerNames.zstd, place, keyFile, 'zstd -1 -T2', 'zstd -dc'),
  ];
  const contenders: Contender[] = [];
  const absent: AbsentPeer[] = [];
  for (const peer of peers) {
    const missing = await missingPrograms(...peer.programs);
    if (missing.length === 0) contenders.push(new PeerContender(peer, place));
    else absent.push({ name: peer.name, why: `${missing.join(', ')} not installed` });
  }
  for (const { name, why } of absent) say(`  ${name}: ${why}`);
  return { contenders, absent };
}

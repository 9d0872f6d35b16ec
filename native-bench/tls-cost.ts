/**
 * What it costs this process to receive or to send over TLS, on the loopback interface, with the product's TLS options and certificates (both
 * sides show one). The other side is a process of its own. The handshake is not counted. Bare `tls`: no WebSocket, no frames, no copies.
 */
import { fork, type ChildProcess } from 'node:child_process';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { systemClock } from '../src/kit/clock.ts';
import { posixFiles } from '../src/posix/files.ts';
import { issueInMemory, openAuthority } from '../src/transport/authority.ts';
import type { Credentials } from '../src/transport/credentials.ts';
import { tlsOptions } from '../src/transport/tls-options.ts';
import { Meter } from './cost.ts';
import { host, receiveBytes, sendFrames, sum, type PeerReport, type PeerTask } from './tls-transfer.ts';

/** Beside this file, with its extension: sources and the compiled tree both run. */
const peerPath = fileURLToPath(import.meta.url).replace(/tls-cost(\.[cm]?[jt]s)$/, 'tls-peer$1');
const peerMsMax = 120_000;

/** Credentials both sides may show to each other. `directory` keeps the authority. */
export async function makeCredentials(directory: string): Promise<Credentials> {
  const authority = await openAuthority(posixFiles, directory, systemClock);
  return issueInMemory(authority, { role: 'process-server', name: 'bench', days: 1 }, systemClock);
}

/** Runs `work` with a peer that was given no task yet, and sees it end. */
async function withPeer(work: (peer: ChildProcess) => Promise<void>): Promise<void> {
  const peer = fork(peerPath, [], { timeout: peerMsMax });
  const ended = new Promise<void>((resolve, reject) => {
    peer.once('error', reject);
    peer.once('exit', (code) => {
      if (code === 0) resolve();
      else reject(new Error(`the other side of a TLS measurement ended with ${code ?? 'a signal'}`));
    });
  });
  try {
    // Whichever fails first: the work waits for ever for a peer that is gone.
    await Promise.race([work(peer), ended.then(() => new Promise<never>(() => undefined))]);
    await ended;
  } finally {
    peer.kill();
  }
}

function nextReport(peer: ChildProcess): Promise<PeerReport> {
  return new Promise((resolve) => peer.once('message', (report: PeerReport) => resolve(report)));
}

/** CPU of receiving frames of these sizes, each sent in one piece. */
export async function measureReceive(credentials: Credentials, sizes: readonly number[]): Promise<Meter> {
  const meter = new Meter();
  const server = createServer({ ...tlsOptions(credentials), requestCert: true });
  try {
    await new Promise<void>((resolve) => server.listen(0, host, resolve));
    const { port } = server.address() as AddressInfo;
    await withPeer(async (peer) => {
      const connected = new Promise<TLSSocket>((resolve, reject) => {
        server.once('secureConnection', resolve).once('tlsClientError', reject);
      });
      peer.send({ kind: 'send', credentials, port, sizes } satisfies PeerTask);
      const socket = await connected;
      await meter.during(() => receiveBytes(socket, sum(sizes)));
      socket.end();
    });
  } finally {
    server.close();
  }
  return meter;
}

/** CPU of sending frames of these sizes, until the other side has them all. */
export async function measureSend(credentials: Credentials, sizes: readonly number[]): Promise<Meter> {
  const meter = new Meter();
  await withPeer(async (peer) => {
    const listening = nextReport(peer);
    peer.send({ kind: 'receive', credentials, bytes: sum(sizes) } satisfies PeerTask);
    const where = await listening;
    if (where.kind !== 'listening') throw new Error('the other side of a TLS measurement has nothing to say');
    const socket = connect({
      ...tlsOptions(credentials),
      host,
      port: where.port,
      checkServerIdentity: () => undefined,
    });
    await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
    const done = nextReport(peer);
    await meter.during(async () => {
      await sendFrames(socket, sizes);
      await done;
    });
    socket.destroy();
  });
  return meter;
}

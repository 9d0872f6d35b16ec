/** The other side of a TLS measurement, in a process of its own so that its CPU time is not counted. Started by `tls-cost.ts`. */
import type { AddressInfo } from 'node:net';
import { connect, createServer } from 'node:tls';
import { tlsOptions } from '../src/transport/tls-options.ts';
import { host, receiveBytes, sendFrames, type PeerReport, type PeerTask } from './tls-transfer.ts';

function report(what: PeerReport): void {
  process.send?.(what);
}

async function send({ credentials, port, sizes }: Extract<PeerTask, { kind: 'send' }>): Promise<void> {
  const socket = connect({ ...tlsOptions(credentials), host, port, checkServerIdentity: () => undefined });
  await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
  await sendFrames(socket, sizes);
  socket.end();
}

async function receive({ credentials, bytes }: Extract<PeerTask, { kind: 'receive' }>): Promise<void> {
  const server = createServer({ ...tlsOptions(credentials), requestCert: true });
  await new Promise<void>((resolve, reject) => {
    server.once('secureConnection', (socket) => {
      receiveBytes(socket, bytes).then(resolve, reject);
    });
    server.listen(0, host, () => report({ kind: 'listening', port: (server.address() as AddressInfo).port }));
  });
  report({ kind: 'done' });
  server.close();
}

process.once('message', (task: PeerTask) => {
  const done = task.kind === 'send' ? send(task) : receive(task);
  done.then(
    () => process.disconnect(),
    (error: unknown) => {
      process.stderr.write(`${String(error)}\n`);
      process.exit(1);
    },
  );
});

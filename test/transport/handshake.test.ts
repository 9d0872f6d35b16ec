/** After a handshake by `ws` the socket is as it was before: nobody else reads it, ends it or hears of its end. */
import { once } from 'node:events';
import * as http from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { expect, it } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { handshakeOptions, watchHandshake } from '../../src/transport/handshake.ts';

const listening = (socket: Socket): Map<string | symbol, unknown[]> =>
  new Map(
    socket
      .eventNames()
      .map((name): [string | symbol, unknown[]] => [name, socket.rawListeners(name)])
      .sort(([one], [other]) => String(one).localeCompare(String(other))),
  );

it('leaves on both sides who listened before, and nobody else', async () => {
  const server = http.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const listener = new WebSocketServer({ ...handshakeOptions, noServer: true });
  const sockets: Socket[] = [];
  const seen: Map<string | symbol, unknown[]>[] = [];
  const watch = (socket: Socket): (() => void) => {
    // Of ours, before the handshake: it stays.
    socket.on('error', () => undefined).once('close', () => undefined);
    const before = listening(socket);
    const takeOver = watchHandshake(socket);
    return () => {
      expect(listening(socket)).not.toEqual(before);
      takeOver();
      socket.pause();
      seen.push(before, listening(socket));
      sockets.push(socket);
    };
  };
  server.on('upgrade', (request, _socket, head) => {
    listener.handleUpgrade(request, request.socket, head, watch(request.socket));
  });
  const ws = new WebSocket(`ws://127.0.0.1:${(server.address() as AddressInfo).port}/`, handshakeOptions);
  let takeOver: (() => void) | undefined;
  ws.on('upgrade', ({ socket }) => (takeOver = watch(socket)));
  ws.on('open', () => takeOver?.());
  await expect.poll(() => seen.length).toBe(4);
  expect(seen[1]).toEqual(seen[0]);
  expect(seen[3]).toEqual(seen[2]);
  for (const socket of sockets) socket.destroy();
  server.close();
});

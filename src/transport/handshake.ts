/**
 * Opening handshakes are `ws`'s work, on both sides (RFC 6455 §4). After them it is of no more use: what it would do with the frames of
 * a bulk stream costs twice what it has to (`ws-connection.ts`), and the little that is left of the protocol then, ping and close,
 * is less than it takes to share a socket with somebody. So the socket is taken over: whatever `ws` left listening on it goes.
 *
 * The window is one turn: `ws` sets its listeners and reports 'open' in the same one, before anything was read. What came with the
 * handshake it put back into the socket.
 */
import type { Socket } from 'node:net';

/** The options `ws` needs for a handshake of either side. It would offer and accept compression. */
export const handshakeOptions = { perMessageDeflate: false } as const;

type Listener = ReturnType<Socket['rawListeners']>[number];

const listenersOf = (socket: Socket): readonly (readonly [string | symbol, Listener])[] =>
  socket.eventNames().flatMap((name) => socket.rawListeners(name).map((listener) => [name, listener] as const));

/**
 * To be called before `ws` gets to the socket; the function given back is to be called when it reports the connection open, in the same
 * turn: on the socket then listens who did before. Whoever takes it over pauses it in that turn, too, or what it holds is lost.
 */
export function watchHandshake(socket: Socket): () => void {
  const before = new Set(listenersOf(socket).map(([, listener]) => listener));
  return () => {
    for (const [name, listener] of listenersOf(socket)) {
      if (!before.has(listener)) socket.removeListener(name, listener as (...args: unknown[]) => void);
    }
  };
}

/**
 * Listens for peers. A socket passes four gates and is only then a `Connection`; each gate knows as little as it must.
 *
 *   accept ─► room? ─► TLS 1.3 handshake ─► certificate, role ─► HTTP upgrade: path, sub-protocol ─► onConnection
 *
 *  1. Nothing a peer sends is parsed before its certificate was checked: the HTTP parser gets only sockets of allowed roles.
 *  2. `Arrival` is the one state of a socket on its way in; it ends once, as `admitted` or `refused`, and its deadline with it.
 *  3. A refused peer is told why where that is safe: with a fixed HTTP answer after the TLS handshake, so that an agent with
 *     an expired certificate can tell its operator, instead of seeing a reset. That is why TLS itself is told not to reject.
 *  4. Arrivals and connections are bounded; what is above is dropped before TLS costs anything (C5). So is everything while
 *     refusals come faster than `refusedPerSecondMax`.
 *
 * Deadlines run on the clock handed in, but for the TLS handshake's, which also holds in a socket nobody reads.
 */
import type { X509Certificate } from 'node:crypto';
import * as http from 'node:http';
import * as net from 'node:net';
import * as tls from 'node:tls';
import { WebSocketServer } from 'ws';
import type { Clock, Timer } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { wireCodes } from '../wire/codes.ts';
import { closeCodes } from './connection.ts';
import type { Connection, PeerIdentity, Role } from './connection.ts';
import type { Credentials } from './credentials.ts';
import { handshakeOptions, watchHandshake } from './handshake.ts';
import { badCertificate, identityOf } from './identity.ts';
import { RefusalRate } from './refusal-rate.ts';
import { refusalHeader, refusalReasonHeader, subProtocol, tlsOptions, upgradePath } from './tls-options.ts';
import { remoteOf, WsConnection } from './ws-connection.ts';

/** Why a socket did not become a connection; a closed set, fit for a metric's label. */
export type RefusalCode = 'tls' | 'bad-certificate' | 'wrong-role' | 'bad-request' | 'timeout' | 'overloaded' | 'gone';

export interface Refusal {
  readonly code: RefusalCode;
  /** `address:port`. */
  readonly remote: string;
  readonly message: string;
}

export interface Deadlines {
  readonly handshakeMs: number;
  readonly upgradeMs: number;
  readonly firstFrameMs: number;
}

export interface ListenOptions {
  readonly host: string;
  /** 0: any free port; `Listener.port` tells which. */
  readonly port: number;
  readonly credentials: Credentials;
  /** Roles that may connect. */
  readonly accept: readonly Role[];
  readonly clock: Clock;
  /** Must call `onFrame` synchronously. */
  readonly onConnection: (connection: Connection) => void;
  readonly onRefused: (refusal: Refusal) => void;
  readonly deadlines?: Partial<Deadlines>;
}

export interface Listener {
  readonly port: number;
  /** Connections open now. */
  readonly connections: number;
  /** Stops accepting, closes every connection (`shutting-down`) and resolves when all sockets are gone. Idempotent. */
  close(): Promise<void>;
}

/** @throws Problem `bad-config` (address in use or not ours), `bad-certificate` (our own). */
export async function listen(options: ListenOptions): Promise<Listener> {
  const server = new Server(options);
  await server.start();
  return server;
}

/** Invariant 2. */
interface Arrival {
  readonly remote: string;
  readonly socket: net.Socket;
  stage: 'tls' | 'upgrade' | 'refused';
  deadline: Timer;
}

class Server implements Listener {
  readonly #options: ListenOptions;
  readonly #deadlines: Deadlines;
  readonly #net: net.Server;
  readonly #tls: tls.Server;
  readonly #http: http.Server;
  readonly #ws: WebSocketServer;
  /** By `address:port`, which is unique among the living sockets of one listener. */
  readonly #arrivals = new Map<string, Arrival>();
  readonly #open = new Set<Connection>();
  readonly #rate: RefusalRate;
  #closing: Promise<void> | undefined;

  constructor(options: ListenOptions) {
    this.#options = options;
    const { handshakeMs, upgradeMs, firstFrameMs } = limits.wire;
    this.#deadlines = { handshakeMs, upgradeMs, firstFrameMs, ...options.deadlines };
    this.#rate = new RefusalRate(options.clock, limits.wire.refusedPerSecondMax);
    this.#net = net.createServer({ noDelay: true }, (socket) => this.#accept(socket));
    this.#tls = createTls(options.credentials, this.#deadlines.handshakeMs);
    this.#tls.on('secureConnection', (socket) => this.#checkPeer(socket));
    this.#tls.on('tlsClientError', (error, socket) => {
      this.#refuse(remoteOf(socket), 'tls', messageOf(error));
      socket.destroy();
    });
    // Neither of these two listens: each is given sockets that passed the gate before.
    this.#http = http.createServer({ maxHeaderSize: limits.wire.httpHeaderBytesMax, keepAliveTimeout: 1 });
    this.#http.on('upgrade', (request, socket, head) => {
      // A body would be read as frames by some versions of Node and be taken out of the stream by others.
      const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
      const bare = length === undefined && coding === undefined && socket === request.socket;
      if (bare) this.#upgrade(request, request.socket, head);
      else this.#answer(request.socket, 'bad-request', 'an upgrade has no body');
    });
    this.#http.on('request', (request) =>
      this.#answer(request.socket, 'bad-request', 'only WebSocket upgrades are served'),
    );
    this.#http.on('clientError', (error, socket) => {
      if (socket instanceof net.Socket) this.#refuse(remoteOf(socket), 'bad-request', messageOf(error));
      socket.destroy();
    });
    this.#ws = new WebSocketServer({ ...handshakeOptions, noServer: true, clientTracking: false });
  }

  get port(): number {
    const address = this.#net.address();
    invariant(address !== null && typeof address === 'object', 'a listener on TCP has a port');
    return address.port;
  }

  get connections(): number {
    return this.#open.size;
  }

  start(): Promise<void> {
    const { host, port } = this.#options;
    return new Promise((resolve, reject) => {
      this.#net.once('error', (error) => {
        const why = systemCode(error) === 'EADDRINUSE' ? 'the address is in use' : messageOf(error);
        reject(
          new Problem('bad-config', `can not listen on ${host}:${port}: ${why}`, {
            remedy: 'choose another port or host',
          }),
        );
      });
      this.#net.listen({ host, port }, resolve);
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.#shutDown();
    return this.#closing;
  }

  async #shutDown(): Promise<void> {
    const stopped = new Promise<void>((resolve) => this.#net.close(() => resolve()));
    for (const arrival of this.#arrivals.values()) arrival.socket.destroy();
    const open = [...this.#open];
    for (const connection of open) connection.close(wireCodes['shutting-down'].close, 'the server is shutting down');
    await Promise.all(open.map((connection) => connection.closed));
    await stopped;
  }

  /** First gate, before any cost (invariant 4). */
  #accept(socket: net.Socket): void {
    const remote = remoteOf(socket);
    const waiting = this.#arrivals.size;
    const { handshakesMax, connectionsMax } = limits.wire;
    if (
      waiting >= handshakesMax ||
      waiting + this.#open.size >= connectionsMax ||
      this.#rate.exceeded ||
      this.#closing
    ) {
      socket.destroy();
      this.#rate.count();
      this.#options.onRefused({ code: 'overloaded', remote, message: 'too many connections or refusals' });
      return;
    }
    // The handshake's own deadline is TLS's; this one also ends a socket that TLS lost sight of.
    const deadline = this.#options.clock.after(this.#deadlines.handshakeMs, () => this.#late(remote));
    this.#arrivals.set(remote, { remote, socket, stage: 'tls', deadline });
    socket.on('error', () => undefined);
    socket.on('close', () => this.#refuse(remote, 'gone', 'the peer left before it was admitted'));
    this.#tls.emit('connection', socket);
  }

  /** Second gate: certificate and role. */
  #checkPeer(socket: tls.TLSSocket): void {
    const arrival = this.#arrivals.get(remoteOf(socket));
    if (arrival?.stage !== 'tls') {
      socket.destroy();
      return;
    }
    socket.on('error', () => socket.destroy());
    const identity = this.#identify(socket);
    if (isProblem(identity)) {
      this.#answer(socket, identity.code === 'bad-certificate' ? 'bad-certificate' : 'wrong-role', identity.message);
      return;
    }
    arrival.stage = 'upgrade';
    arrival.deadline.cancel();
    arrival.deadline = this.#options.clock.after(this.#deadlines.upgradeMs, () => this.#late(arrival.remote));
    this.#http.emit('connection', socket);
  }

  #identify(socket: tls.TLSSocket): PeerIdentity | Problem {
    const certificate: X509Certificate | undefined = socket.getPeerX509Certificate();
    if (!certificate) return badCertificate('no certificate was shown');
    if (!socket.authorized) {
      return badCertificate(`the certificate is not valid on this site: ${String(socket.authorizationError)}`);
    }
    try {
      const identity = identityOf(certificate, this.#options.clock.wallMs());
      if (this.#options.accept.includes(identity.role)) return identity;
      return new Problem('wrong-role', `a certificate of role ${identity.role} may not connect here`);
    } catch (error) {
      return isProblem(error) ? error : badCertificate(messageOf(error), error);
    }
  }

  /** Third gate: the upgrade. */
  #upgrade(request: http.IncomingMessage, socket: net.Socket, head: Buffer): void {
    const arrival = this.#arrivals.get(remoteOf(socket));
    const identity = socket instanceof tls.TLSSocket ? this.#identify(socket) : undefined;
    if (arrival?.stage !== 'upgrade' || !identity || isProblem(identity)) {
      socket.destroy();
      return;
    }
    const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
    if (request.url !== upgradePath) this.#answer(socket, 'bad-request', `the path is ${upgradePath}`);
    else if (!offered.includes(subProtocol)) this.#answer(socket, 'bad-request', `the sub-protocol is ${subProtocol}`);
    else {
      request.headers['sec-websocket-protocol'] = subProtocol;
      const takeOver = watchHandshake(socket);
      this.#ws.handleUpgrade(request, socket, head, () => {
        takeOver();
        this.#settle(arrival.remote);
        this.#admit(new WsConnection({ socket, side: 'server', peer: identity, clock: this.#options.clock }));
      });
    }
  }

  #admit(connection: WsConnection): void {
    const { clock, onConnection } = this.#options;
    const { firstFrameMs } = this.#deadlines;
    const silent = clock.after(firstFrameMs, () => {
      connection.close(closeCodes.deadline, `no frame within ${firstFrameMs} ms`);
    });
    void connection.heard.then(() => silent.cancel());
    this.#supersede(connection.peer);
    this.#open.add(connection);
    void connection.closed.then(() => {
      silent.cancel();
      this.#open.delete(connection);
    });
    if (this.#closing) connection.close(wireCodes['shutting-down'].close, 'the server is shutting down');
    else onConnection(connection);
  }

  /** One agent can not use up the listener: beyond its share its oldest connection goes. */
  #supersede(peer: PeerIdentity): void {
    if (peer.role !== 'agent') return;
    const same = [...this.#open].filter(({ peer: other }) => other.role === peer.role && other.name === peer.name);
    if (same.length < limits.wire.connectionsPerAgentMax) return;
    same[0]?.close(wireCodes.superseded.close, 'a newer connection of the same certificate took its place');
  }

  #late(remote: string): void {
    const arrival = this.#arrivals.get(remote);
    if (!arrival) return;
    const what = arrival.stage === 'tls' ? 'the TLS handshake' : 'the upgrade';
    this.#refuse(remote, 'timeout', `${what} was not done in time`);
    arrival.socket.destroy();
  }

  /** Ends an arrival, once (invariant 2). */
  #settle(remote: string): Arrival | undefined {
    const arrival = this.#arrivals.get(remote);
    arrival?.deadline.cancel();
    this.#arrivals.delete(remote);
    return arrival;
  }

  #refuse(remote: string, code: RefusalCode, message: string): void {
    const arrival = this.#settle(remote);
    if (!arrival || arrival.stage === 'refused') return;
    this.#rate.count();
    this.#options.onRefused({ code, remote, message });
  }

  /** Invariant 3. The arrival keeps its place until the socket is gone, so that lingering is bounded too. */
  #answer(socket: net.Socket, code: RefusalCode, message: string): void {
    const remote = remoteOf(socket);
    const arrival = this.#arrivals.get(remote);
    if (!arrival || arrival.stage === 'refused') return;
    this.#refuse(remote, code, message);
    const linger = this.#options.clock.after(limits.wire.refusalLingerMs, () => arrival.socket.destroy());
    this.#arrivals.set(remote, { ...arrival, stage: 'refused', deadline: linger });
    const status = code === 'bad-request' ? '400 Bad Request' : '403 Forbidden';
    socket.end(
      `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n` +
        `${refusalHeader}: ${code}\r\n${refusalReasonHeader}: ${message.replaceAll(/[^\x20-\x7e]/g, '?')}\r\n\r\n`,
    );
    // What the peer still sends is dropped: unread bytes would turn our answer into a reset.
    socket.resume();
  }
}

function createTls(credentials: Credentials, handshakeMs: number): tls.Server {
  return tls.createServer({
    ...tlsOptions(credentials),
    honorCipherOrder: true,
    requestCert: true,
    rejectUnauthorized: false, // Invariant 3: `#checkPeer` rejects.
    handshakeTimeout: handshakeMs,
  });
}

/**
 * Connects to a server. One attempt: whoever calls decides about the next one (`kit/backoff.ts`) by the Problem's `retryable`.
 *
 *  1. One deadline for look-up, TCP, TLS and upgrade together; its Problem names the step that did not end.
 *  2. The server is known by the role (and name, if given) in its certificate, signed by the site's authority. Host names are
 *     not compared: addresses of a recovery site change in an emergency, certificates do not, and only the authority gives
 *     out the role. This is checked before the first byte of ours is sent.
 *  3. The promise settles once; whatever happens later to an attempt given up is silent, its socket destroyed.
 */
import { X509Certificate } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import type { TLSSocket } from 'node:tls';
import { WebSocket } from 'ws';
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { formatAddress } from './address.ts';
import type { Connection, PeerIdentity, Role } from './connection.ts';
import type { Credentials } from './credentials.ts';
import { handshakeOptions, watchHandshake } from './handshake.ts';
import { badCertificate, identityOf } from './identity.ts';
import { refusalHeader, refusalReasonHeader, subProtocol, tlsOptions, upgradePath } from './tls-options.ts';
import { WsConnection } from './ws-connection.ts';

export interface ConnectOptions {
  readonly host: string;
  readonly port: number;
  readonly credentials: Credentials;
  /** The server must have this role … */
  readonly expectRole: Role;
  /** … and, if given, this name. */
  readonly expectName?: string;
  readonly clock: Clock;
  /** Gives the attempt up; the promise then rejects with the signal's reason. Means nothing once connected. */
  readonly signal?: AbortSignal;
  /** Default `limits.wire.connectMs`. */
  readonly deadlineMs?: number;
}

type Step = 'connecting' | 'TLS' | 'upgrade';

/** @throws Problem `unreachable`, `timeout` (retryable), `bad-certificate`, `refused`, `bad-argument` (not a host). */
export function connect(options: ConnectOptions): Promise<Connection> {
  return new Promise((resolve, reject) => new Attempt(options, resolve, reject));
}

class Attempt {
  readonly #options: ConnectOptions;
  readonly #where: string;
  readonly #ws: WebSocket;
  #step: Step = 'connecting';
  #peer: PeerIdentity | undefined;
  #socket: TLSSocket | undefined;
  #takeOver: (() => void) | undefined;
  #settled = false;

  constructor(options: ConnectOptions, resolve: (connection: Connection) => void, reject: (error: unknown) => void) {
    this.#options = options;
    this.#where = formatAddress(options);
    const { clock, signal, deadlineMs = limits.wire.connectMs } = options;
    this.#ws = this.#dial(); // Nothing happens to it before the next turn.
    const settle = (how: () => void): void => {
      if (this.#settled) return;
      this.#settled = true;
      deadline.cancel();
      signal?.removeEventListener('abort', aborted);
      how();
    };
    const fail = (error: unknown): void => {
      settle(() => {
        reject(error);
        this.#ws.terminate(); // 3: its 'error' comes back here and is ignored.
      });
    };
    const aborted = (): void => fail(signal?.reason);
    const deadline = clock.after(deadlineMs, () => {
      const message = `${this.#where} did not answer within ${deadlineMs} ms (${this.#step})`;
      fail(
        new Problem('timeout', message, {
          remedy: 'check that the server is up and its port is open',
          retryable: true,
        }),
      );
    });
    this.#ws.on('error', (error) => fail(this.#problemOf(error)));
    this.#ws.on('unexpected-response', (_request, response) => fail(refusalOf(response, this.#where)));
    this.#ws.on('upgrade', ({ socket }) => (this.#takeOver = watchHandshake(socket)));
    this.#ws.on('open', () => settle(() => resolve(this.#established())));
    if (signal?.aborted) aborted();
    else signal?.addEventListener('abort', aborted, { once: true });
  }

  #dial(): WebSocket {
    const url = `wss://${this.#where}${upgradePath}`;
    if (!URL.canParse(url)) throw new Problem('bad-argument', `'${this.#where}' is not an address`);
    return new WebSocket(url, subProtocol, {
      ...handshakeOptions,
      createConnection: () => this.#openSocket(),
    });
  }

  #openSocket(): TLSSocket {
    const { host, port, credentials } = this.#options;
    const socket = tlsConnect({
      ...tlsOptions(credentials),
      host,
      port,
      ...(isIP(host) === 0 ? { servername: host } : {}),
      rejectUnauthorized: true,
      checkServerIdentity: (_host, certificate) => this.#check(certificate.raw),
    });
    socket.once('connect', () => (this.#step = 'TLS'));
    socket.once('secureConnect', () => (this.#step = 'upgrade'));
    this.#socket = socket;
    return socket;
  }

  /** Invariant 2. Given back, the error ends the handshake and comes to 'error' as it is. */
  #check(raw: Buffer): Error | undefined {
    const { clock, expectRole, expectName } = this.#options;
    try {
      const peer = identityOf(new X509Certificate(raw), clock.wallMs());
      if (peer.role !== expectRole || (expectName !== undefined && peer.name !== expectName)) {
        const wanted = expectName === undefined ? `a ${expectRole}` : `${expectRole} ${expectName}`;
        return badCertificate(`${this.#where} is ${peer.role} ${peer.name}, not ${wanted}`);
      }
      this.#peer = peer;
      return undefined;
    } catch (error) {
      return isProblem(error) ? error : badCertificate(messageOf(error), error);
    }
  }

  #established(): Connection {
    invariant(this.#peer && this.#socket?.authorized && this.#takeOver, 'an open connection was checked');
    this.#takeOver();
    return new WsConnection({ socket: this.#socket, side: 'client', peer: this.#peer, clock: this.#options.clock });
  }

  #problemOf(error: Error): Problem {
    if (isProblem(error)) return error;
    const code = systemCode(error) ?? '';
    if (certificateErrors.has(code) || /^ERR_SSL_.*(CERTIFICATE|UNKNOWN_CA)/.test(code)) {
      return badCertificate(`${this.#where}: ${messageOf(error)}`, error);
    }
    if (code.startsWith('ERR_SSL_') || code.startsWith('HPE_') || code === 'EPROTO' || code === '') {
      return refused(`${this.#where} did not speak TLS 1.3 and the protocol with us: ${messageOf(error)}`, false);
    }
    const message = `${this.#where} can not be reached (${this.#step}): ${messageOf(error)}`;
    return new Problem('unreachable', message, {
      remedy: 'check the address, the server and the network between',
      retryable: true,
      cause: error,
    });
  }
}

/** OpenSSL's names for what is wrong with a chain, as Node reports them. */
const certificateErrors = new Set([
  'CERT_CHAIN_TOO_LONG',
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'CERT_REJECTED',
  'CERT_REVOKED',
  'CERT_SIGNATURE_FAILURE',
  'CERT_UNTRUSTED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'INVALID_CA',
  'INVALID_PURPOSE',
  'PATH_LENGTH_EXCEEDED',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
]);

function refused(message: string, retryable: boolean): Problem {
  return new Problem('refused', message, {
    remedy: 'check that the address and port are those of the right server',
    retryable,
  });
}

/** What a server that refuses says in its headers (`server.ts`); anything else answered is not one of ours. */
function refusalOf(response: IncomingMessage, where: string): Problem {
  const header = (name: string): string => String(response.headers[name] ?? '').slice(0, 200);
  const reason = header(refusalReasonHeader) || `HTTP status ${response.statusCode ?? 0}`;
  if (header(refusalHeader) === 'bad-certificate') return badCertificate(`${where} refused our certificate: ${reason}`);
  return refused(`${where} refused: ${reason}`, (response.statusCode ?? 0) >= 500);
}

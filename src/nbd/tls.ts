/**
 * TLS on an NBD connection, from the byte behind the answer to STARTTLS on (doc/proto.md of the NBD project, "FORCEDTLS mode"): both sides show
 * certificates of one authority that exists for this export alone.
 *
 *  1. `secured` is called for a client with a certificate of that authority, meant for clients; any other is cut off with nothing said but what
 *     TLS itself says.
 *  2. TLS 1.3 only, ChaCha20-Poly1305 before AES-GCM: a machine runs from such a connection for months, and AES-GCM wears a key out after some
 *     300 GiB (RFC 8446, 5.5), which nobody here can renew on a connection. AES remains for clients that have nothing else.
 *  3. Each connection has a context of its own, so that no client resumes the session of another and skips showing its certificate.
 */
import type { Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import { systemCode } from '../kit/problem.ts';

export interface NbdTls {
  /** PEM, as `certPem` and `caPem`. */
  readonly keyPem: string;
  readonly certPem: string;
  /** Of the authority whose clients are let in. */
  readonly caPem: string;
  /** Where clients find what they show, by the names libnbd and QEMU look for; named in the URI. */
  readonly clientDirectory: string;
}

/**
 * Takes over a socket nobody reads from any more; what it was told to write goes out first, in the clear. Exactly one of the two is called, unless
 * the socket is destroyed before; after `failed` the socket is gone.
 */
export function beginTls(
  socket: Socket,
  { keyPem, certPem, caPem }: NbdTls,
  on: { secured(secured: TLSSocket): void; failed(reason: string): void },
): void {
  const server = createServer({
    ...{ key: keyPem, cert: certPem, ca: caPem, requestCert: true, rejectUnauthorized: true },
    ...{ minVersion: 'TLSv1.3', honorCipherOrder: true },
    ciphers: 'TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256',
  });
  // A client that leaves half-way is gone; half a connection makes sense in transmission only.
  socket.allowHalfOpen = false;
  server.once('secureConnection', (secured: TLSSocket) => {
    secured.allowHalfOpen = true;
    on.secured(secured);
  });
  // A certificate that is not believed makes a plain hang-up of its error.
  server.on('tlsClientError', (error: Error, { authorizationError: refused }: { authorizationError: unknown }) => {
    on.failed(typeof refused === 'string' ? refused : (systemCode(error) ?? error.message));
  });
  server.emit('connection', socket);
}

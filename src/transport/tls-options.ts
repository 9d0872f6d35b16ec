/** What both sides of TLS are told alike: version 1.3 only, our certificate, the site's authority as the only root. */
import { constants } from 'node:crypto';
import type { SecureContextOptions } from 'node:tls';
import type { Credentials } from './credentials.ts';

export const subProtocol = 'tidemark.v1';
export const upgradePath = '/v1/replicate';
/** Headers by which a server tells a refused client why; see `server.ts`. */
export const refusalHeader = 'tidemark-refused';
export const refusalReasonHeader = 'tidemark-reason';

export function tlsOptions(credentials: Credentials): SecureContextOptions {
  return {
    key: credentials.keyPem,
    cert: credentials.certPem,
    ca: credentials.caPem,
    minVersion: 'TLSv1.3',
    maxVersion: 'TLSv1.3',
    // AES-GCM first: with AES instructions ChaCha20 costs half as much again.
    ciphers: 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256',
    // No resumption: every connection shows its certificate and has it checked.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

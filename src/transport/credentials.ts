/**
 * What a role shows at TLS: `key.pem` (PKCS#8, 0600, made here and never leaving the directory), `cert.pem`, and `ca.pem`, the
 * site's authority. ECDSA P-256.
 *
 *  1. The key is written before the request that names it is given out, and an existing key is used again: a crash or a second
 *     try between request and certificate loses nothing.
 *  2. A certificate is stored only if it belongs to the key and is signed by the authority that came with it; both are
 *     checked again whenever they are loaded.
 */
import './class-metadata.ts';
import { createPrivateKey, createPublicKey, generateKeyPair, subtle } from 'node:crypto';
import * as path from 'node:path';
import { promisify } from 'node:util';
import * as x509 from '@peculiar/x509';
import { messageOf, Problem } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import type { PeerIdentity } from './connection.ts';
import { badCertificate, identityOf, parseCertificate } from './identity.ts';

export interface Credentials {
  /** Who the certificate says we are. */
  readonly identity: PeerIdentity;
  readonly keyPem: string;
  readonly certPem: string;
  readonly caPem: string;
}

export interface IssuedCertificate {
  readonly certPem: string;
  readonly caPem: string;
}

export interface Expiry {
  readonly notAfterMs: number;
  /** Below zero once expired. */
  readonly leftMs: number;
  /** True in the last third of the certificate's life: time to renew. */
  readonly renew: boolean;
}

export const keyAlgorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

const keyFile = 'key.pem';
const certFile = 'cert.pem';
const caFile = 'ca.pem';
const publicMode = 0o644;

const makePair = promisify(generateKeyPair);

/** A new ECDSA P-256 private key, PKCS#8 PEM. */
export async function makeKeyPem(): Promise<string> {
  const { privateKey } = await makePair('ec', { namedCurve: keyAlgorithm.namedCurve });
  return privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
}

export type SigningKeys = Awaited<ReturnType<typeof importKeyPair>>;

/** The keys of a PKCS#8 PEM, as the certificate library wants them. @throws Problem `bad-certificate`. */
export async function importKeyPair(keyPem: string, from: string) {
  try {
    const key = createPrivateKey(keyPem);
    const publicPart = createPublicKey(key).export({ format: 'jwk' });
    return {
      privateKey: await subtle.importKey('jwk', key.export({ format: 'jwk' }), keyAlgorithm, false, ['sign']),
      publicKey: await subtle.importKey('jwk', publicPart, keyAlgorithm, true, ['verify']),
    };
  } catch (error) {
    throw badCertificate(`${from} is not an ECDSA P-256 private key: ${messageOf(error)}`, error);
  }
}

/**
 * Makes `key.pem` in `directory` unless it is there, and a signing request (PKCS#10 PEM) for it. The name in the request is a
 * wish: the authority decides.
 */
export async function makeRequest(files: Files, directory: string, name: string): Promise<string> {
  await files.makeDirectory(directory);
  const keyPath = path.join(directory, keyFile);
  if (!(await files.exists(keyPath))) await files.replaceFile(keyPath, Buffer.from(await makeKeyPem()), 0o600);
  const keys = await importKeyPair((await files.readWhole(keyPath)).toString(), keyPath);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: [{ CN: [name] }],
    keys,
    signingAlgorithm: keyAlgorithm,
  });
  return `${request.toString('pem')}\n`;
}

/** Stores what the authority answered, beside its key. @throws Problem `bad-certificate` (invariant 2). */
export async function storeCertificate(
  files: Files,
  directory: string,
  issued: IssuedCertificate,
  nowMs: number,
): Promise<Credentials> {
  const keyPem = (await files.readWhole(path.join(directory, keyFile))).toString();
  const { certPem, caPem } = issued;
  const credentials = checkCredentials({ keyPem, certPem, caPem }, nowMs);
  await files.replaceFile(path.join(directory, caFile), Buffer.from(caPem), publicMode);
  await files.replaceFile(path.join(directory, certFile), Buffer.from(certPem), publicMode);
  return credentials;
}

/**
 * @param nowMs wall clock, milliseconds since the Unix epoch.
 * @throws Problem `not-found` (not enrolled), `bad-certificate` (expired, foreign, damaged).
 */
export async function loadCredentials(files: Files, directory: string, nowMs: number): Promise<Credentials> {
  const read = async (name: string): Promise<string> => {
    const file = path.join(directory, name);
    if (!(await files.exists(file))) {
      throw new Problem('not-found', `${file} does not exist`, {
        remedy: 'enroll this machine with a registration key',
      });
    }
    return (await files.readWhole(file)).toString();
  };
  const [keyPem, certPem, caPem] = [await read(keyFile), await read(certFile), await read(caFile)];
  return checkCredentials({ keyPem, certPem, caPem }, nowMs);
}

/** Invariant 2. @throws Problem `bad-certificate`. */
export function checkCredentials(
  parts: { keyPem: string; certPem: string; caPem: string },
  nowMs: number,
): Credentials {
  const certificate = parseCertificate(parts.certPem, certFile);
  const authority = parseCertificate(parts.caPem, caFile);
  let belongs: boolean;
  try {
    belongs = certificate.checkPrivateKey(createPrivateKey(parts.keyPem));
  } catch (error) {
    throw badCertificate(`${keyFile} can not be read: ${messageOf(error)}`, error);
  }
  if (!belongs) throw badCertificate(`${certFile} does not belong to ${keyFile}`);
  if (!certificate.checkIssued(authority) || !certificate.verify(authority.publicKey)) {
    throw badCertificate(`${certFile} is not signed by the authority in ${caFile}`);
  }
  const { keyPem, certPem, caPem } = parts;
  return { identity: identityOf(certificate, nowMs), keyPem, certPem, caPem };
}

export function expiryOf(credentials: Credentials, nowMs: number): Expiry {
  const { notAfterMs } = credentials.identity;
  const notBeforeMs = Date.parse(parseCertificate(credentials.certPem, certFile).validFrom);
  const leftMs = notAfterMs - nowMs;
  return { notAfterMs, leftMs, renew: leftMs < (notAfterMs - notBeforeMs) / 3 };
}

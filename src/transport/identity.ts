/**
 * Who a certificate speaks for: its one URI SAN `tidemark://<role>/<name>` (C8). Pure: certificate in, identity or Problem
 * `bad-certificate` out. That the certificate is signed by the site's authority and meant for this use is TLS's check, made before.
 *
 *  1. Exactly one SAN of our scheme, and it matches as a whole: nothing is cut off, decoded, or compared without regard to case.
 *  2. Node's text form of SANs quotes and escapes what could be mistaken for a separator. Our authority never signs such a name,
 *     so a quote anywhere refuses the certificate: that no name can smuggle in a second one shall not hang on one escape.
 *  3. The time of validity is checked here once more, against the clock that was handed in: a resumed session or a wrong
 *     library default must not make an expired certificate good.
 */
import { X509Certificate } from 'node:crypto';
import { messageOf, Problem } from '../kit/problem.ts';
import { roles } from './connection.ts';
import type { PeerIdentity, Role } from './connection.ts';

const namePattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const uriPattern = /^tidemark:\/\/([a-z-]+)\/([a-z0-9][a-z0-9._-]{0,62})$/;

/** The rule for names of machines and servers. */
export function isName(name: string): boolean {
  return namePattern.test(name);
}

function isRole(role: string): role is Role {
  return (roles as readonly string[]).includes(role);
}

export function identityUri(role: Role, name: string): string {
  return `tidemark://${role}/${name}`;
}

export function badCertificate(message: string, cause?: unknown): Problem {
  return new Problem('bad-certificate', message, {
    remedy: 'enroll again with a registration key of this site, and check the clocks of both ends',
    cause,
  });
}

/** @param from names the file or peer in the message. @throws Problem `bad-certificate`. */
export function parseCertificate(pem: string, from: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw badCertificate(`${from} is not a certificate: ${messageOf(error)}`, error);
  }
}

/** Lower-case hex SHA-256 of the certificate. */
export function fingerprintOf(certificate: X509Certificate): string {
  return certificate.fingerprint256.replaceAll(':', '').toLowerCase();
}

/**
 * @param nowMs wall clock, milliseconds since the Unix epoch.
 * @throws Problem `bad-certificate`.
 */
export function identityOf(certificate: X509Certificate, nowMs: number): PeerIdentity {
  const names = certificate.subjectAltName ?? '';
  if (names.includes('"')) throw badCertificate('the certificate has a quoted alternative name'); // 2
  const uris = names.split(', ').filter((entry) => entry.startsWith('URI:'));
  const [uri] = uris;
  if (uri === undefined || uris.length > 1) {
    throw badCertificate(`the certificate has ${uris.length} URI names and must have one, tidemark://role/name`);
  }
  const [, role, name] = uriPattern.exec(uri.slice('URI:'.length)) ?? []; // 1
  if (role === undefined || name === undefined || !isRole(role)) {
    throw badCertificate('the URI name of the certificate is not tidemark://role/name');
  }
  const notAfterMs = Date.parse(certificate.validTo);
  const notBeforeMs = Date.parse(certificate.validFrom);
  // 3; written so that a date that can not be read (NaN) refuses.
  if (!(nowMs < notAfterMs)) throw badCertificate(`the certificate of ${role} ${name} ended on ${certificate.validTo}`);
  if (!(nowMs >= notBeforeMs)) {
    throw badCertificate(`the certificate of ${role} ${name} begins on ${certificate.validFrom}, later than now`);
  }
  return { role, name, fingerprint: fingerprintOf(certificate), notAfterMs };
}

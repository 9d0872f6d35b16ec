/**
 * The site's certificate authority: one ECDSA P-256 key in `ca.key` (PKCS#8, 0600) and its certificate `ca.pem`, made on first
 * start. Whoever holds `ca.key` can be anyone on this site; nothing else here is secret.
 *
 *  1. What is asked for in a request is ignored but for its public key: role, name, dates and uses are the caller's decision.
 *  2. The request must be signed by the key it carries, so nobody gets a certificate for someone else's key.
 *  3. The key is made durable before the certificate: a crash in between leaves a key that the next start uses. A
 *     certificate without its key is a fault that only a person can resolve, and is never papered over by a new authority, which
 *     would shut out every enrolled agent.
 *  4. Names are checked against the name rule before they go into a URI, and hosts against theirs (see `identity.ts`, 2).
 */
import './class-metadata.ts';
import { isIP } from 'node:net';
import * as path from 'node:path';
import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import type { Clock } from '../kit/clock.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { KiB } from '../kit/sizes.ts';
import type { Files } from '../posix/files.ts';
import type { Role } from './connection.ts';
import { checkCredentials, importKeyPair, keyAlgorithm, makeKeyPem } from './credentials.ts';
import type { Credentials, IssuedCertificate, SigningKeys } from './credentials.ts';
import { badCertificate, fingerprintOf, identityUri, isName, parseCertificate } from './identity.ts';

const dayMs = 24 * 3600 * 1000;
const authorityDays = 3650;
const daysMax = 825;
/** Certificates begin this much before now, for peers whose clock is behind. */
const backdateMs = 3600 * 1000;
/** OpenSSL's name of P-256. */
const curveOfKeys = 'prime256v1';
const requestBytesMax = 16 * KiB;
const hostsMax = 64;
const hostPattern = /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/;
const localHosts = ['localhost', '127.0.0.1', '::1'];

export interface IssueOptions {
  /** PKCS#10 PEM of an ECDSA P-256 key. */
  readonly csrPem: string;
  readonly role: Role;
  readonly name: string;
  /** 1 to 825; never beyond the authority's own end. */
  readonly days: number;
  /** Host names and IP addresses besides localhost, for roles that listen. */
  readonly hosts?: readonly string[];
}

export interface Authority {
  readonly caPem: string;
  /** Lower-case hex SHA-256 of the authority's certificate, to compare by eye or to pin. */
  readonly fingerprint: string;
  readonly notAfterMs: number;
  /** @throws Problem `bad-argument`. */
  issue(options: IssueOptions): Promise<IssuedCertificate>;
}

/** Opens the authority in `directory`, making it if there is none. @throws Problem `no-key`, `bad-certificate`. */
export async function openAuthority(files: Files, directory: string, clock: Clock): Promise<Authority> {
  const keyPath = path.join(directory, 'ca.key');
  const caPath = path.join(directory, 'ca.pem');
  await files.makeDirectory(directory);
  const [keyThere, certificateThere] = [await files.exists(keyPath), await files.exists(caPath)];
  if (certificateThere && !keyThere) {
    throw new Problem('no-key', `${keyPath} is missing beside ${caPath}`, {
      remedy: 'restore ca.key from a backup; removing ca.pem makes a new authority that no enrolled agent will trust',
    });
  }
  if (!keyThere) await files.replaceFile(keyPath, Buffer.from(await makeKeyPem()), 0o600);
  const keys = await importKeyPair((await files.readWhole(keyPath)).toString(), keyPath);
  if (!certificateThere) {
    const made = await makeAuthorityCertificate(keys, clock.wallMs());
    await files.replaceFile(caPath, Buffer.from(`${made.toString('pem')}\n`), 0o644);
  }
  const keyPem = (await files.readWhole(keyPath)).toString();
  const caPem = (await files.readWhole(caPath)).toString();
  if (!parseCertificate(caPem, caPath).checkPrivateKey(createPrivateKey(keyPem))) {
    throw badCertificate(`${caPath} does not belong to ${keyPath}`);
  }
  return new SiteAuthority(caPem, keys, clock);
}

async function makeAuthorityCertificate(keys: SigningKeys, nowMs: number): Promise<x509.X509Certificate> {
  return x509.X509CertificateGenerator.createSelfSigned({
    name: [{ CN: ['Tidemark site authority'] }],
    keys,
    notBefore: new Date(nowMs - backdateMs),
    notAfter: new Date(nowMs + authorityDays * dayMs),
    signingAlgorithm: keyAlgorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
}

class SiteAuthority implements Authority {
  readonly caPem: string;
  readonly fingerprint: string;
  readonly notAfterMs: number;
  readonly #certificate: x509.X509Certificate;
  readonly #keys: SigningKeys;
  readonly #clock: Clock;

  constructor(caPem: string, keys: SigningKeys, clock: Clock) {
    const facts = new X509Certificate(caPem);
    this.caPem = caPem;
    this.fingerprint = fingerprintOf(facts);
    this.notAfterMs = Date.parse(facts.validTo);
    this.#certificate = new x509.X509Certificate(caPem);
    this.#keys = keys;
    this.#clock = clock;
  }

  async issue(options: IssueOptions): Promise<IssuedCertificate> {
    const { role, name, days } = options;
    const hosts = [...localHosts, ...(options.hosts ?? [])];
    if (!isName(name))
      throw badArgument(`'${name}' is not a name`, 'use up to 63 of a-z 0-9 . _ - and begin with a letter or digit');
    if (!Number.isInteger(days) || days < 1 || days > daysMax)
      throw badArgument(`${days} days`, `give 1 to ${daysMax} days`);
    if (hosts.length > hostsMax || !hosts.every((host) => isIP(host) !== 0 || hostPattern.test(host))) {
      throw badArgument(`hosts ${hosts.join(', ')}`, 'give at most 60 host names (lower case) or IP addresses');
    }
    const publicKey = await publicKeyOf(options.csrPem);
    const nowMs = this.#clock.wallMs();
    const certificate = await x509.X509CertificateGenerator.create({
      subject: [{ CN: [name] }, { OU: [role] }],
      issuer: this.#certificate.subjectName,
      notBefore: new Date(nowMs - backdateMs),
      notAfter: new Date(Math.min(nowMs + days * dayMs, this.notAfterMs)),
      publicKey,
      signingKey: this.#keys.privateKey,
      signingAlgorithm: keyAlgorithm,
      extensions: await this.#extensions(publicKey, role, name, hosts),
    });
    return { certPem: `${certificate.toString('pem')}\n`, caPem: this.caPem };
  }

  async #extensions(
    key: x509.PublicKey,
    role: Role,
    name: string,
    hosts: readonly string[],
  ): Promise<x509.Extension[]> {
    const listens = role !== 'agent';
    const names: x509.JsonGeneralNames = [{ type: 'url', value: identityUri(role, name) }];
    if (listens)
      names.push(...Array.from(new Set(hosts), (value) => ({ type: isIP(value) ? 'ip' : 'dns', value }) as const));
    const uses = [x509.ExtendedKeyUsage.clientAuth, ...(listens ? [x509.ExtendedKeyUsage.serverAuth] : [])];
    return [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension(uses, true),
      new x509.SubjectAlternativeNameExtension(names),
      await x509.SubjectKeyIdentifierExtension.create(key),
      await x509.AuthorityKeyIdentifierExtension.create(this.#keys.publicKey),
    ];
  }
}

/** Invariant 2. */
async function publicKeyOf(csrPem: string): Promise<x509.PublicKey> {
  if (csrPem.length > requestBytesMax)
    throw badArgument('a signing request of this length', `at most ${requestBytesMax} bytes`);
  let request: x509.Pkcs10CertificateRequest;
  let signed: boolean;
  let curve: string | undefined;
  try {
    request = new x509.Pkcs10CertificateRequest(csrPem);
    signed = await request.verify();
    const key = createPublicKey({ key: Buffer.from(request.publicKey.rawData), format: 'der', type: 'spki' });
    curve = key.asymmetricKeyDetails?.namedCurve;
  } catch (error) {
    throw badArgument(`the signing request can not be read (${messageOf(error)})`, 'give a PKCS#10 request in PEM');
  }
  if (!signed) throw badArgument('the signing request is not signed by its own key', 'make a new request');
  if (curve !== curveOfKeys) throw badArgument('the signing request has another kind of key', 'use an ECDSA P-256 key');
  return request.publicKey;
}

/**
 * Key and certificate for a role that lives in the authority's own process (the control API), in memory only: nothing to
 * renew, back up or protect on disk. @throws Problem `bad-argument`.
 */
export async function issueInMemory(
  authority: Authority,
  options: Omit<IssueOptions, 'csrPem'>,
  clock: Clock,
): Promise<Credentials> {
  const keyPem = await makeKeyPem();
  const keys = await importKeyPair(keyPem, 'the key just made');
  const request = await x509.Pkcs10CertificateRequestGenerator.create({ keys, signingAlgorithm: keyAlgorithm });
  const issued = await authority.issue({ ...options, csrPem: request.toString('pem') });
  return checkCredentials({ keyPem, ...issued }, clock.wallMs());
}

function badArgument(what: string, remedy: string): Problem {
  return new Problem('bad-argument', `the authority can not sign: ${what}`, { remedy });
}

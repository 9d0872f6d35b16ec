/**
 * Certificates for one export of disks: an authority that signs two certificates, one for the server and one for its clients, and is forgotten. So
 * whoever holds the client's key reaches these disks and nothing else of the site, and nobody can be added later, not even by us.
 *
 *  1. The authority's key never leaves this function: there is nothing to keep, and nothing to steal.
 *  2. Each certificate is good for one side only (extended key usage): what clients hold can not pass for the server.
 *  3. They are good as long as the site's authority would be: a machine that runs from such a disk must not lose it to a date. They end with the
 *     export, whose server is the only one that believes them.
 */
import './class-metadata.ts';
import { isIP } from 'node:net';
import * as x509 from '@peculiar/x509';
import { importKeyPair, keyAlgorithm, makeKeyPem, type SigningKeys } from './credentials.ts';

interface KeyAndCertificate {
  /** PKCS#8 PEM. */
  readonly keyPem: string;
  readonly certPem: string;
}

export interface ExportCertificates {
  readonly caPem: string;
  readonly server: KeyAndCertificate;
  readonly client: KeyAndCertificate;
}

const dayMs = 24 * 3600 * 1000;
const days = 3650;
/** Certificates begin this much before now, for clients whose clock is behind. */
const backdateMs = dayMs;
const localHosts = ['localhost', '127.0.0.1', '::1'];

/** @param host name or IP address by which clients reach the server, beside those of the loopback interface. */
export async function makeExportCertificates(host: string, nowMs: number): Promise<ExportCertificates> {
  const validity = { notBefore: new Date(nowMs - backdateMs), notAfter: new Date(nowMs + days * dayMs) };
  const keys = await newKeys();
  const authority = await x509.X509CertificateGenerator.createSelfSigned({
    ...validity,
    name: [{ CN: ['Tidemark export authority'] }],
    keys: keys.keys,
    signingAlgorithm: keyAlgorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.keys.publicKey),
    ],
  });
  const issue = async (name: string, extensions: readonly x509.Extension[]): Promise<KeyAndCertificate> => {
    const own = await newKeys();
    const certificate = await x509.X509CertificateGenerator.create({
      ...validity,
      subject: [{ CN: [name] }],
      issuer: authority.subjectName,
      publicKey: own.keys.publicKey,
      signingKey: keys.keys.privateKey,
      signingAlgorithm: keyAlgorithm,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature),
        ...extensions,
        await x509.AuthorityKeyIdentifierExtension.create(keys.keys.publicKey),
      ],
    });
    return { keyPem: own.keyPem, certPem: pemOf(certificate) };
  };
  const hosts = [...new Set([...localHosts, host])].map(
    (value) => ({ type: isIP(value) ? 'ip' : 'dns', value }) as const,
  );
  return {
    caPem: pemOf(authority),
    server: await issue('Tidemark export', [
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(hosts),
    ]),
    client: await issue('Tidemark export client', [
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth]),
    ]),
  };
}

async function newKeys(): Promise<{ readonly keyPem: string; readonly keys: SigningKeys }> {
  const keyPem = await makeKeyPem();
  return { keyPem, keys: await importKeyPair(keyPem, 'the key just made') };
}

function pemOf(certificate: x509.X509Certificate): string {
  return `${certificate.toString('pem')}\n`;
}

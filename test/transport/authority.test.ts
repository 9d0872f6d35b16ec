/** The authority and what roles keep of it: files, names, and everything it must not sign. */
import '../../src/transport/class-metadata.ts';
import { createHash, generateKeyPairSync, webcrypto, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import * as x509 from '@peculiar/x509';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { openAuthority } from '../../src/transport/authority.ts';
import { roles } from '../../src/transport/connection.ts';
import {
  expiryOf,
  keyAlgorithm,
  loadCredentials,
  makeRequest,
  storeCertificate,
} from '../../src/transport/credentials.ts';
import { identityOf, isName } from '../../src/transport/identity.ts';
import { dayMs, makeSite, refusalOf } from './site.ts';
import type { TestSite } from './site.ts';

let site: TestSite;
let directory: string;
const now = Date.now();

beforeAll(async () => {
  site = await makeSite();
  directory = mkdtempSync(path.join(tmpdir(), 'tidemark-authority-'));
});

afterAll(() => {
  site.remove();
  rmSync(directory, { recursive: true, force: true });
});

const modeOf = (file: string): string => (statSync(file).mode & 0o777).toString(8);
const hashOf = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex');

describe('the directory of the authority', () => {
  it('is made once, secret where it must be, and used again', async () => {
    const home = path.join(directory, 'fresh');
    const first = await openAuthority(posixFiles, home, systemClock);
    expect(modeOf(path.join(home, 'ca.key'))).toBe('600');
    const again = await openAuthority(posixFiles, home, systemClock);
    expect(again.fingerprint).toBe(first.fingerprint);
    const facts = new X509Certificate(first.caPem);
    expect(facts.ca).toBe(true);
    expect(facts.verify(facts.publicKey)).toBe(true);
    expect(first.notAfterMs).toBeGreaterThan(now + 3000 * dayMs);
  });

  it('goes on with a key whose certificate was not yet written (crash in between)', async () => {
    const home = path.join(directory, 'crashed');
    await openAuthority(posixFiles, home, systemClock);
    const key = hashOf(path.join(home, 'ca.key'));
    rmSync(path.join(home, 'ca.pem'));
    await openAuthority(posixFiles, home, systemClock);
    expect(hashOf(path.join(home, 'ca.key'))).toBe(key);
  });

  it('never replaces a lost key, and names a damaged one', async () => {
    const home = path.join(directory, 'lost');
    await openAuthority(posixFiles, home, systemClock);
    rmSync(path.join(home, 'ca.key'));
    expect(await refusalOf(openAuthority(posixFiles, home, systemClock))).toMatchObject({ code: 'no-key' });
    writeFileSync(path.join(home, 'ca.key'), 'garbage');
    expect(await refusalOf(openAuthority(posixFiles, home, systemClock))).toMatchObject({ code: 'bad-certificate' });
  });

  it('is refused when key and certificate are of two authorities', async () => {
    const home = path.join(directory, 'mixed');
    await openAuthority(posixFiles, home, systemClock);
    writeFileSync(path.join(home, 'ca.pem'), site.authority.caPem);
    expect(await refusalOf(openAuthority(posixFiles, home, systemClock))).toMatchObject({ code: 'bad-certificate' });
  });
});

describe('enrolment', () => {
  it('goes from key and request to stored credentials, and a second request uses the same key', async () => {
    const home = path.join(directory, 'agent');
    const csrPem = await makeRequest(posixFiles, home, 'vm-1');
    expect(csrPem).not.toContain('PRIVATE');
    const key = hashOf(path.join(home, 'key.pem'));
    expect(modeOf(path.join(home, 'key.pem'))).toBe('600');
    await makeRequest(posixFiles, home, 'vm-1');
    expect(hashOf(path.join(home, 'key.pem'))).toBe(key);
    const issued = await site.authority.issue({ csrPem, role: 'agent', name: 'vm-1', days: 30 });
    const stored = await storeCertificate(posixFiles, home, issued, now);
    const loaded = await loadCredentials(posixFiles, home, now);
    expect(loaded).toEqual(stored);
    expect(loaded.identity).toMatchObject({ role: 'agent', name: 'vm-1' });
    expect(expiryOf(loaded, now)).toMatchObject({ renew: false });
    expect(expiryOf(loaded, now + 25 * dayMs)).toMatchObject({ renew: true });
    expect(await refusalOf(loadCredentials(posixFiles, home, now + 31 * dayMs))).toMatchObject({
      code: 'bad-certificate',
      message: expect.stringContaining('ended on') as string,
    });
  });

  it('stores no certificate of another key or another authority, and says when there is none', async () => {
    const home = path.join(directory, 'careful');
    expect(await refusalOf(loadCredentials(posixFiles, home, now))).toMatchObject({ code: 'not-found' });
    const csrPem = await makeRequest(posixFiles, home, 'vm-1');
    const other = await site.credentials('agent', 'vm-1');
    expect(await refusalOf(storeCertificate(posixFiles, home, other, now))).toMatchObject({ code: 'bad-certificate' });
    const { certPem } = await site.authority.issue({ csrPem, role: 'agent', name: 'vm-1', days: 30 });
    const foreign = await makeSite();
    const mixed = { certPem, caPem: foreign.authority.caPem };
    expect(await refusalOf(storeCertificate(posixFiles, home, mixed, now))).toMatchObject({ code: 'bad-certificate' });
    expect(await posixFiles.list(home)).toEqual(['key.pem']);
    foreign.remove();
  });
});

describe('what the authority signs', () => {
  it('says who it is, for what, and until when', async () => {
    for (const role of roles) {
      const { certPem } = await site.credentials(role, 'x-1', {
        days: 10,
        hosts: ['dr.example.com', '192.0.2.7', 'fd00::1'],
      });
      const certificate = new X509Certificate(certPem);
      expect(identityOf(certificate, now)).toMatchObject({ role, name: 'x-1' });
      const listens = role !== 'agent';
      expect(certificate.checkHost('dr.example.com') !== undefined).toBe(listens);
      for (const address of ['192.0.2.7', '127.0.0.1', '::1', 'fd00::1']) {
        expect(certificate.checkIP(address) !== undefined, address).toBe(listens);
      }
      expect(certificate.keyUsage).toEqual(['1.3.6.1.5.5.7.3.2', ...(listens ? ['1.3.6.1.5.5.7.3.1'] : [])]);
      expect(certificate.ca).toBe(false);
      expect(Date.parse(certificate.validTo) - now).toBeLessThanOrEqual(10 * dayMs + 60_000);
    }
  });

  it('never outlives the authority', async () => {
    const old = await makeSite(-3640 * dayMs);
    const { identity } = await old.credentials('agent', 'vm-1', { days: 825 });
    expect(identity.notAfterMs).toBeLessThanOrEqual(old.authority.notAfterMs);
    old.remove();
  });

  it('takes role and name from its caller, not from the request', async () => {
    const home = path.join(directory, 'liar');
    const csrPem = await makeRequest(posixFiles, home, 'somebody-else');
    const { certPem } = await site.authority.issue({ csrPem, role: 'agent', name: 'vm-1', days: 1 });
    expect(new X509Certificate(certPem).subject).not.toContain('somebody');
    expect(identityOf(new X509Certificate(certPem), now)).toMatchObject({ role: 'agent', name: 'vm-1' });
  });

  it('does not sign a request that its key did not sign, another kind of key, or garbage', async () => {
    const csrPem = await makeRequest(posixFiles, path.join(directory, 'csr'), 'vm-1');
    const der = Buffer.from(csrPem.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64');
    const at = der.indexOf('vm-1');
    der.write('vm-2', at);
    const tampered = `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----`;
    const other = { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' } as const;
    const keys = await webcrypto.subtle.generateKey(other, true, ['sign', 'verify']);
    const large = await x509.Pkcs10CertificateRequestGenerator.create({ keys, signingAlgorithm: other });
    for (const bad of [tampered, large.toString('pem'), 'garbage', '', csrPem.slice(0, 200), 'x'.repeat(1_000_000)]) {
      const attempt = site.authority.issue({ csrPem: bad, role: 'agent', name: 'vm-1', days: 1 });
      expect(await refusalOf(attempt)).toMatchObject({ code: 'bad-argument' });
    }
  });

  it('does not sign bad names, hosts or times', async () => {
    const csrPem = await makeRequest(posixFiles, path.join(directory, 'csr'), 'vm-1');
    const good = { csrPem, role: 'target', name: 't-1', days: 1 } as const;
    const bad = [
      ...['', 'A', '-a', 'a/b', 'a b', 'ä', 'a'.repeat(64), '../x', 'a,b', 'a\n'].map((name) => ({ ...good, name })),
      ...[0, -1, 1.5, 826, Number.NaN].map((days) => ({ ...good, days })),
      ...['a, URI:tidemark://target/x', '*.example.com', 'A.example', '', 'x_y', 'a..b'].map((host) => ({
        ...good,
        hosts: [host],
      })),
      { ...good, hosts: Array.from({ length: 100 }, (_none, index) => `h${index}`) },
    ];
    for (const options of bad)
      expect(await refusalOf(site.authority.issue(options))).toMatchObject({ code: 'bad-argument' });
  });
});

describe('identity', () => {
  async function certificateWith(names: x509.JsonGeneralNames): Promise<X509Certificate> {
    const keys = await webcrypto.subtle.generateKey(keyAlgorithm, true, ['sign', 'verify']);
    const made = await x509.X509CertificateGenerator.createSelfSigned({
      keys,
      name: 'CN=x',
      notBefore: new Date(now - dayMs),
      notAfter: new Date(now + dayMs),
      signingAlgorithm: keyAlgorithm,
      extensions: [new x509.SubjectAlternativeNameExtension(names)],
    });
    return new X509Certificate(made.toString('pem'));
  }

  const uri = (value: string) => ({ type: 'url', value }) as const;

  it.each([
    ['no name', [{ type: 'dns', value: 'a.example' } as const]],
    ['two names', [uri('tidemark://agent/a'), uri('tidemark://agent/b')]],
    ['a second URI of another scheme', [uri('tidemark://agent/a'), uri('https://b')]],
    ['an unknown role', [uri('tidemark://root/a')]],
    ['another scheme', [uri('https://agent/a')]],
    ['upper case', [uri('tidemark://AGENT/a')]],
    ['a longer path', [uri('tidemark://agent/a/b')]],
    ['a query', [uri('tidemark://agent/a?b')]],
    ['a new line', [uri('tidemark://agent/a\n')]],
    ['a name smuggled into a host name', [{ type: 'dns', value: 'a, URI:tidemark://target/evil, b' } as const]],
  ])('is refused with %s', async (_what, names) => {
    const certificate = await certificateWith([...names]);
    expect(() => identityOf(certificate, now)).toThrow(expect.objectContaining({ code: 'bad-certificate' }) as Error);
  });

  it('is refused before and after its time', async () => {
    const certificate = await certificateWith([uri('tidemark://agent/a')]);
    expect(identityOf(certificate, now).name).toBe('a');
    expect(() => identityOf(certificate, now + 2 * dayMs)).toThrow('ended on');
    expect(() => identityOf(certificate, now - 2 * dayMs)).toThrow('begins on');
  });

  it('names follow the rule exactly', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 70 }), (text) => {
        const allowed = Array.from(text).every((letter) => 'abcdefghijklmnopqrstuvwxyz0123456789._-'.includes(letter));
        expect(isName(text)).toBe(allowed && text.length >= 1 && text.length <= 63 && !'._-'.includes(text.charAt(0)));
      }),
    );
  });
});

it('refuses a key of another kind in key.pem', async () => {
  const home = path.join(directory, 'rsa');
  await posixFiles.makeDirectory(home);
  const { privateKey } = generateKeyPairSync('ed25519');
  writeFileSync(path.join(home, 'key.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
  expect(await refusalOf(makeRequest(posixFiles, home, 'vm-1'))).toMatchObject({ code: 'bad-certificate' });
});

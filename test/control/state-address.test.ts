import { describe, expect, it } from 'vitest';
import { parsePostgresAddress } from '../../src/control/state-address.ts';

const refusal = (message: string) => expect.objectContaining({ code: 'bad-config', message }) as unknown;
const refusedWith = (text: string): unknown => {
  try {
    return parsePostgresAddress(text);
  } catch (error) {
    return error;
  }
};

describe('the address of the state', () => {
  it('is read in every form', () => {
    expect(parsePostgresAddress('postgres://ada@db.example:6543/tidemark')).toEqual({
      host: 'db.example',
      port: 6543,
      database: 'tidemark',
      user: 'ada',
      tls: { verified: true, rootCertificate: undefined, certificate: undefined, key: undefined },
      text: 'PostgreSQL db.example:6543/tidemark',
    });
    expect(parsePostgresAddress('postgresql://[::1]/t')).toMatchObject({ host: '::1', port: 5432, tls: null });
    const socket = { host: '/run/postgresql', database: 't', user: 'ada', tls: null };
    expect(parsePostgresAddress('postgres:///t?host=/run/postgresql&user=ada')).toMatchObject(socket);
    expect(parsePostgresAddress('postgres://ada@%2Frun%2Fpostgresql/t')).toMatchObject(socket);
  });

  it('asks for TLS that is verified, unless told otherwise by name', () => {
    expect(parsePostgresAddress('postgres://db/t?sslmode=require').tls?.verified).toBe(false);
    expect(parsePostgresAddress('postgres://db/t?sslmode=disable').tls).toBeNull();
    expect(parsePostgresAddress('postgres://localhost/t?sslmode=verify-full&sslrootcert=/ca').tls).toMatchObject({
      verified: true,
      rootCertificate: '/ca',
    });
    expect(refusedWith('postgres://db/t?sslmode=prefer')).toEqual(
      refusal('control.state: sslmode "prefer" is not known'),
    );
    expect(refusedWith('postgres://db/t?sslcert=/c')).toEqual(
      refusal('control.state: sslcert and sslkey belong together'),
    );
  });

  it('holds no password, and repeats none', () => {
    for (const text of ['postgres://ada:s3cret@db/t', 'postgres://db/t?password=s3cret']) {
      const refused = refusedWith(text);
      expect(refused).toEqual(refusal('control.state: a password stands in it'));
      expect(JSON.stringify(refused)).not.toContain('s3cret');
    }
  });

  it('is refused where it is not understood', () => {
    const parts = refusal('control.state: host, port and database are not all there');
    for (const text of ['postgres://db', 'postgres:///t', 'postgres://db/t?port=0'])
      expect(refusedWith(text)).toEqual(parts);
    const stranger = refusal('control.state: parameter "sslrotcert" is not known');
    expect(refusedWith('postgres://db/t?sslrotcert=/x')).toEqual(stranger);
    expect(refusedWith('mysql://db/t')).toEqual(
      refusal('control.state: it is not the address of a PostgreSQL database'),
    );
  });
});

/**
 * Where control keeps its state, as it is configured: `postgres://user@host:5432/database`, or with a Unix socket
 * `postgres:///database?host=/run/postgresql&user=tidemark`. TLS as PostgreSQL's own programs name it: `sslmode` (`verify-full`, `require`,
 * `disable`), `sslrootcert`, `sslcert`, `sslkey` (files).
 *
 *  1. No password: the address stands in arguments, configuration and logs. One in it is refused and not repeated.
 *  2. TLS with a verified certificate is the default, but for a Unix socket and loopback. Less has to be asked for by name.
 *  3. What is not understood is refused, not ignored.
 */
import { isIP } from 'node:net';
import { nearest } from '../kit/nearest.ts';
import { Problem } from '../kit/problem.ts';

export interface PostgresAddress {
  /** A name, an IP address, or the directory of a Unix socket. */
  readonly host: string;
  readonly port: number;
  readonly database: string;
  /** Undefined: `PGUSER`, or the user of this process. */
  readonly user: string | undefined;
  /** Null: none. */
  readonly tls: PostgresTls | null;
  /** For messages: no secret. */
  readonly text: string;
}
export interface PostgresTls {
  readonly verified: boolean;
  /** Files, PEM. */
  readonly rootCertificate: string | undefined;
  readonly certificate: string | undefined;
  readonly key: string | undefined;
}

/** What who needs a password is told. */
export const passwordRemedy = 'name a file that holds the password with control.statePassword, or set PGPASSWORD';
const parameters = ['host', 'port', 'user', 'sslmode', 'sslrootcert', 'sslcert', 'sslkey'] as const;
const modes = ['verify-full', 'require', 'disable'] as const;

const refuse = (message: string, remedy: string): Problem =>
  new Problem('bad-config', `control.state: ${message}`, { remedy });

const isLocal = (host: string): boolean => host.startsWith('/') || ['localhost', '127.0.0.1', '::1'].includes(host);

function tlsOf(host: string, given: ReadonlyMap<string, string>): PostgresTls | null {
  const mode = given.get('sslmode') ?? (isLocal(host) ? 'disable' : 'verify-full');
  if (!modes.some((one) => one === mode)) {
    throw refuse(
      `sslmode "${mode}" is not known`,
      `use ${modes.join(', ')}; did you mean "${nearest(mode, [...modes])}"?`,
    );
  }
  const [certificate, key] = [given.get('sslcert'), given.get('sslkey')];
  if ((certificate === undefined) !== (key === undefined)) {
    throw refuse('sslcert and sslkey belong together', 'name both, or neither');
  }
  if (mode === 'disable') return null;
  return { verified: mode === 'verify-full', rootCertificate: given.get('sslrootcert'), certificate, key };
}

/** @throws Problem `bad-config`. */
export function parsePostgresAddress(text: string): PostgresAddress {
  const form = 'write postgres://user@host:5432/database';
  if (!/^postgres(?:ql)?:\/\//.test(text) || !URL.canParse(text)) {
    throw refuse('it is not the address of a PostgreSQL database', form);
  }
  const url = new URL(text);
  const given = new Map<string, string>(url.searchParams);
  if (url.password !== '' || given.has('password')) {
    throw refuse('a password stands in it', passwordRemedy); // 1
  }
  const stranger = [...given.keys()].find((key) => !parameters.some((one) => one === key));
  if (stranger !== undefined) {
    throw refuse(`parameter "${stranger}" is not known`, `did you mean "${nearest(stranger, [...parameters])}"?`); // 3
  }
  const host = given.get('host') ?? decodeURIComponent(url.hostname).replace(/^\[|\]$/g, '');
  const port = Number(given.get('port') ?? (url.port || '5432'));
  const database = decodeURIComponent(url.pathname.slice(1));
  if (host === '' || database === '' || !Number.isInteger(port) || port < 1 || port > 65_535) {
    throw refuse('host, port and database are not all there', form);
  }
  const user = given.get('user') ?? (url.username === '' ? undefined : decodeURIComponent(url.username));
  const at = isIP(host) === 6 ? `[${host}]` : host;
  return { host, port, database, user, tls: tlsOf(host, given), text: `PostgreSQL ${at}:${port}/${database}` };
}

/** `host`, `host:port`, `[::1]:port`, a bare IPv6 address, or `wss://host:port`, as people write them in configuration. */
import { isIPv6 } from 'node:net';
import { Problem } from '../kit/problem.ts';

export interface Address {
  /** A name, or an IP address without brackets. */
  readonly host: string;
  readonly port: number;
}

/** @throws Problem `bad-argument`. */
export function parseAddress(text: string, defaultPort: number): Address {
  if (isIPv6(text)) return { host: text, port: defaultPort };
  const bare = text.startsWith('wss://') ? text.slice('wss://'.length).replace(/\/$/, '') : text;
  const [, bracketed, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]@?#]+))(?::([0-9]{1,5}))?$/.exec(bare) ?? [];
  const host = bracketed ?? plain;
  const number = port === undefined ? defaultPort : Number(port);
  if (host === undefined || (bracketed !== undefined && !isIPv6(bracketed)) || number < 1 || number > 65_535) {
    throw new Problem('bad-argument', `'${text}' is not an address`, {
      remedy: 'write host, host:port or [IPv6]:port',
    });
  }
  return { host, port: number };
}

export function formatAddress({ host, port }: Address): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

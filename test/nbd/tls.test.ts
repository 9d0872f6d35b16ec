/** TLS on TCP exports: clients nobody here wrote get in with the right certificate, and nobody gets in, or learns anything, without. */
import { readdirSync, statSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { connect, type ConnectionOptions, TLSSocket } from 'node:tls';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { connectNbd } from '../../src/nbd/client.ts';
import { option, optionReply } from '../../src/nbd/constants.ts';
import { encodeInfoData, encodeOption } from '../../src/nbd/options.ts';
import type { NbdServer, NbdServerOptions } from '../../src/nbd/server.ts';
import type { NbdLogger } from '../../src/nbd/session.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { clientDirectory, readExportTls, writeExportTls } from '../../src/recovery/export-tls.ts';
import { qemuImageWords } from '../../src/recovery/qemu.ts';
import { type ExportCertificates, makeExportCertificates } from '../../src/transport/export-certificates.ts';
import { requireTool, runTool, runToolOk, type ToolResult } from '../tools.ts';
import { patchyContent } from './backend-contract.ts';
import { MemoryBackend } from './memory-backend.ts';
import { Place, RawClient } from './serve.ts';
import { codeOf, request, until } from './talk.ts';

const size = 4 * MiB + 512;

let mine: ExportCertificates;
let foreign: ExportCertificates;
let place: Place;
beforeAll(async () => {
  [mine, foreign] = (await Promise.all([1, 2].map(() => makeExportCertificates('127.0.0.3', Date.now())))) as [
    ExportCertificates,
    ExportCertificates,
  ];
});
beforeEach(async () => {
  place = await Place.make();
});
afterEach(() => place.end());

interface Served {
  readonly server: NbdServer;
  readonly memory: MemoryBackend;
  readonly uri: string;
  /** Directory of the certificates. */
  readonly tls: string;
  readonly warned: object[];
}

/** A disk behind TLS. A space and a comma in the path of the certificates is no reason to fail. */
async function serve({
  host = '127.0.0.1',
  ...options
}: Partial<NbdServerOptions> & { host?: string } = {}): Promise<Served> {
  const tls = place.file('a, b');
  await writeExportTls(posixFiles, tls, mine);
  const memory = new MemoryBackend(patchyContent(size, 31));
  const warned: object[] = [];
  const logger: NbdLogger = { info: () => undefined, warn: (fields) => void warned.push(fields) };
  const listen = { host, port: 0, tls: await readExportTls(posixFiles, tls) };
  const server = await place.serve(memory, { listen, logger, ...options });
  return { server, memory, uri: server.uri('disk'), tls, warned };
}

/** An address as a client sees it that has other certificates. */
async function withCertificates(uri: string, made: ExportCertificates): Promise<string> {
  const directory = place.file('others');
  await writeExportTls(posixFiles, directory, made);
  const other = new URL(uri);
  other.searchParams.set('tls-certificates', clientDirectory(directory));
  return other.href;
}

const header = (code: number, reply: number): Buffer => {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64BE(0x0003e889045565a9n);
  bytes.writeUInt32BE(code, 8);
  bytes.writeUInt32BE(reply, 12);
  return bytes;
};

/** Says hello and sends options; the header of each reply is checked, its text returned. */
async function ask(raw: RawClient, code: number, data: Buffer, reply: number): Promise<string> {
  raw.say(encodeOption(code, data));
  expect(await raw.hear(16)).toEqual(header(code, reply));
  const length = (await raw.hear(4)).readUInt32BE(0);
  return (await raw.hear(length)).toString();
}

async function greeted(server: NbdServer): Promise<RawClient> {
  const raw = place.raw(server);
  await raw.hear(18);
  raw.say(Buffer.from([0, 0, 0, 3]));
  return raw;
}

const none = Buffer.alloc(0);

/** Through STARTTLS; what is said from then on is encrypted. */
async function secured(server: NbdServer, options: ConnectionOptions): Promise<RawClient> {
  const raw = await greeted(server);
  await ask(raw, option.startTls, none, optionReply.ack);
  const socket = connect({ socket: raw.socket, ca: mine.caPem, host: '127.0.0.1', ...options });
  return new RawClient(socket);
}

/** The words that are printed for qemu-img. */
function imageOf(uri: string): { object: string; image: string } {
  const [, object = '', image = ''] = /^--object '(.*)' '(.*)'$/.exec(qemuImageWords(uri) ?? '') ?? [];
  return { object, image };
}

const ours = (): ConnectionOptions => ({ key: mine.client.keyPem, cert: mine.client.certPem });

async function expectRefused(result: ToolResult, { server, memory }: Served, ...says: string[]): Promise<void> {
  expect(result.code).not.toBe(0);
  for (const text of says) expect(result.stderr).toContain(text);
  await until(() => server.connections === 0, 'the connection is gone');
  expect(memory.calls.read).toBe(0);
}

describe('certificates of an export', () => {
  test('lie where QEMU and libnbd look, clients apart from the server, for nobody else to read', async () => {
    const tls = place.file('tls');
    await writeExportTls(posixFiles, tls, mine);
    const names = (side: string): string[] => readdirSync(path.join(tls, side)).sort();
    expect(names('client')).toEqual(['ca-cert.pem', 'client-cert.pem', 'client-key.pem']);
    expect(names('server')).toEqual(['ca-cert.pem', 'server-cert.pem', 'server-key.pem']);
    for (const name of ['client', 'server']) expect(statSync(path.join(tls, name)).mode & 0o777, name).toBe(0o700);
    for (const name of ['client/client-key.pem', 'server/server-key.pem'])
      expect(statSync(path.join(tls, name)).mode & 0o777, name).toBe(0o600);
  });
});

describe.skipIf(!requireTool('nbdinfo', 'nbdcopy'))('libnbd over TLS', () => {
  test('nbdinfo and nbdcopy take the URI as it is', async () => {
    const { uri, memory } = await serve();
    expect(uri).toMatch(/^nbds:\/\/127\.0\.0\.1:\d+\/disk\?tls-certificates=\/.*\/a%2C%20b\/client$/);
    expect(JSON.parse(await runToolOk('nbdinfo', ['--json', uri]))).toMatchObject({
      ...{ protocol: 'newstyle-fixed', TLS: true, structured: true },
      exports: [{ 'export-size': size, contexts: ['base:allocation'], can_multi_conn: true }],
    });
    const content = patchyContent(size, 32);
    const source = place.file('source.raw');
    await writeFile(source, content);
    await runToolOk('nbdcopy', ['--connections=4', '--flush', source, uri]);
    expect(memory.content.equals(content)).toBe(true);
    await runToolOk('nbdcopy', ['--connections=4', uri, place.file('copy.raw')]);
    expect((await readFile(place.file('copy.raw'))).equals(content)).toBe(true);
  });

  test('a client without TLS is refused', async () => {
    const served = await serve();
    const plain = served.uri.replace('nbds:', 'nbd:').replace(/\?.*/, '');
    for (const words of [[plain], ['--list', plain]])
      await expectRefused(await runTool('nbdinfo', words), served, 'server replied with error');
  });

  test('a client of another authority believes nothing, and one it does not believe is cut off', async () => {
    const served = await serve();
    const doubting = await runTool('nbdinfo', [await withCertificates(served.uri, foreign)]);
    await expectRefused(doubting, served, 'certificate');
    // Believes us, and shows a certificate of another authority.
    const believing = await withCertificates(served.uri, { ...foreign, caPem: mine.caPem });
    await expectRefused(await runTool('nbdinfo', [believing]), served);
    expect(served.warned).toContainEqual({ reason: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' });
  });

  test('the name in the certificate must be the one that was called', async () => {
    const named = await serve({ host: '127.0.0.3' });
    await runToolOk('nbdinfo', [named.uri]);
    const unnamed = await serve({ host: '127.0.0.2' });
    await expectRefused(await runTool('nbdinfo', [unnamed.uri]), unnamed, 'certificate');
  });
});

describe.skipIf(!requireTool('qemu-img', 'qemu-io'))('QEMU over TLS', () => {
  test('qemu-img takes the words we print: info, convert, compare', async () => {
    const { uri, memory } = await serve();
    const { object, image } = imageOf(uri);
    expect(await runToolOk('qemu-img', ['info', '--object', object, image])).toContain(`(${size} bytes)`);
    const copy = place.file('copy.qcow2');
    await runToolOk('qemu-img', ['convert', '--object', object, '-O', 'qcow2', image, copy]);
    await runToolOk('qemu-img', ['compare', '--object', object, image, copy]);
    memory.content[size - 1] = (memory.content[size - 1] ?? 0) ^ 1;
    expect((await runTool('qemu-img', ['compare', '--object', object, image, copy])).code).toBe(1);
    await runToolOk('qemu-io', ['--object', object, '-c', 'write -P 0x42 1000 70000', '-c', 'flush', image]);
    expect(memory.content.subarray(1000, 71_000).every((byte) => byte === 0x42)).toBe(true);
  });

  test('without TLS, with foreign certificates or by another name, it is refused', async () => {
    const served = await serve();
    const plain = served.uri.replace('nbds:', 'nbd:').replace(/\?.*/, '');
    await expectRefused(await runTool('qemu-img', ['info', plain]), served, 'TLS');
    const { object, image } = imageOf(await withCertificates(served.uri, foreign));
    await expectRefused(await runTool('qemu-img', ['info', '--object', object, image]), served, 'certificate');
    const right = imageOf(served.uri);
    const misnamed = right.image.replace('"tls-creds"', '"tls-hostname":"elsewhere.example","tls-creds"');
    await expectRefused(
      await runTool('qemu-img', ['info', '--object', right.object, misnamed]),
      served,
      'elsewhere.example',
    );
  });
});

describe('before TLS', () => {
  test('every option but STARTTLS and ABORT is answered with "TLS required"', async () => {
    const { server } = await serve();
    const raw = await greeted(server);
    const go = encodeInfoData('disk', []);
    for (const [code, data] of [
      [option.list, none],
      [option.info, go],
      [option.go, go],
      [option.structuredReply, none],
      [option.setMetaContext, go],
      [77, none],
      [option.list, Buffer.alloc(limits.nbd.optionBytesMax + 1)],
    ] as const)
      expect(await ask(raw, code, data, optionReply.tlsRequired)).toContain('TLS comes first');
    expect(await ask(raw, option.startTls, Buffer.from('x'), optionReply.invalid)).toContain('no data');
    await ask(raw, option.abort, none, optionReply.ack);
    expect(await raw.closed()).toHaveLength(0);
  });

  test('EXPORT_NAME, whose answer can not say no, ends the connection', async () => {
    const { server } = await serve();
    for (const name of ['disk', 'x'.repeat(limits.nbd.optionBytesMax + 1)]) {
      const raw = await greeted(server);
      raw.say(encodeOption(option.exportName, Buffer.from(name)));
      expect(await raw.closed()).toHaveLength(0);
    }
  });

  test('our client has no TLS and says so', async () => {
    const { server, memory } = await serve();
    expect(await codeOf(connectNbd(server.address, { exportName: 'disk', clock: systemClock }))).not.toBe('no error');
    expect(memory.calls.read).toBe(0);
  });

  test('what is said behind STARTTLS in the clear is not listened to', async () => {
    const { server } = await serve();
    const raw = await greeted(server);
    raw.say(encodeOption(option.startTls, none), encodeOption(option.structuredReply, none));
    expect(await raw.closed()).toHaveLength(0);
    await until(() => server.connections === 0, 'the connection is gone');
  });
});

describe('TLS itself', () => {
  test('is version 1.3 with keys that do not wear out, and the handshake of NBD goes on in it', async () => {
    const { server, memory } = await serve();
    const raw = await secured(server, ours());
    await ask(raw, option.structuredReply, none, optionReply.ack);
    expect(await ask(raw, option.startTls, none, optionReply.invalid)).toContain('TLS is on');
    raw.say(encodeOption(option.exportName, Buffer.from('disk')));
    expect((await raw.hear(10)).readBigUInt64BE(0)).toBe(BigInt(size));
    raw.say(request({ offset: 512, length: 1024 }));
    const chunk = await raw.hear(20 + 8 + 1024);
    expect(chunk.subarray(28).equals(memory.content.subarray(512, 1536))).toBe(true);
    const { socket } = raw;
    if (!(socket instanceof TLSSocket)) expect.fail();
    expect([socket.getProtocol(), socket.getCipher().name]).toEqual(['TLSv1.3', 'TLS_CHACHA20_POLY1305_SHA256']);
    // Half a connection, as after "end of stream" without TLS: what is in flight is answered.
    raw.say(request({ length: 512 }));
    raw.socket.end();
    expect(await raw.closed()).toHaveLength(20 + 8 + 512);
    await until(() => server.connections === 0, 'the connection is gone');
  });

  test.each<[string, () => ConnectionOptions, string]>([
    ['no certificate', () => ({}), 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE'],
    [
      'one of another authority',
      () => ({ key: foreign.client.keyPem, cert: foreign.client.certPem }),
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
    ],
    ["the server's own", () => ({ key: mine.server.keyPem, cert: mine.server.certPem }), 'INVALID_PURPOSE'],
    ['TLS 1.2', () => ({ ...ours(), maxVersion: 'TLSv1.2' }), 'ERR_SSL_UNSUPPORTED_PROTOCOL'],
  ])('lets nobody in with %s', async (_, options, reason) => {
    const { server, warned } = await serve();
    const raw = await secured(server, options());
    raw.say(encodeOption(option.list, none));
    expect(await raw.closed()).toHaveLength(0);
    await until(() => warned.length > 0 && server.connections === 0, 'the connection is gone');
    expect(warned).toEqual([{ reason }]);
  });

  test('garbage in its place ends the connection', async () => {
    const { server, warned } = await serve();
    const raw = await greeted(server);
    await ask(raw, option.startTls, none, optionReply.ack);
    raw.say(encodeOption(option.structuredReply, none), Buffer.alloc(100_000, 0x41));
    await raw.closed();
    await until(() => warned.length > 0 && server.connections === 0, 'the connection is gone');
    expect(warned).toEqual([{ reason: expect.stringMatching(/^ERR_SSL_/) as string }]);
  });

  test.each(['hangs', 'leaves'])('a client that %s half-way leaves no connection behind', async (what) => {
    const deadlines = new Set<() => void>();
    const clock: Clock = {
      ...systemClock,
      after: (ms, run) => {
        if (ms !== limits.nbd.handshakeMs) return systemClock.after(ms, run);
        deadlines.add(run);
        return { cancel: () => void deadlines.delete(run) };
      },
    };
    const { server } = await serve({ clock });
    const raw = await greeted(server);
    await ask(raw, option.startTls, none, optionReply.ack);
    // The beginning of a ClientHello.
    raw.say(Buffer.from([22, 3, 1, 2, 0, 1, 0]));
    await systemClock.sleep(20);
    expect(server.connections).toBe(1);
    if (what === 'leaves') raw.socket.end();
    else for (const run of deadlines) run();
    await raw.closed();
    await until(() => server.connections === 0, 'the connection is gone');
    expect(deadlines.size).toBe(0);
  });

  test('a server that closes waits for nobody who is half-way', async () => {
    const { server } = await serve();
    const half = await greeted(server);
    await ask(half, option.startTls, none, optionReply.ack);
    const whole = await secured(server, ours());
    await ask(whole, option.structuredReply, none, optionReply.ack);
    const beganMs = systemClock.monotonicMs();
    await server.close();
    expect(systemClock.monotonicMs() - beganMs).toBeLessThan(limits.nbd.closeMs);
    await Promise.all([half.closed(), whole.closed()]);
    expect(server.connections).toBe(0);
  });

  test('no more clients get in than may', { timeout: 30_000 }, async () => {
    const { server } = await serve();
    const most = limits.nbd.connectionsMax;
    const clients = await Promise.all(Array.from({ length: most - 1 }, () => greeted(server)));
    const last = await secured(server, ours());
    await ask(last, option.structuredReply, none, optionReply.ack);
    const over = place.raw(server);
    expect(await over.closed()).toHaveLength(0);
    expect(server.connections).toBe(most);
    clients[0]?.socket.destroy();
    await until(() => server.connections === most - 1, 'one has left');
    await ask(await secured(server, ours()), option.structuredReply, none, optionReply.ack);
  });
});

describe('listening', () => {
  test('beyond loopback there is TLS, or nothing; "all addresses" is no address', async () => {
    const listen = { host: '192.0.2.1', port: 0 };
    expect(await codeOf(place.serve(new MemoryBackend(Buffer.alloc(512)), { listen }))).toBe('bad-argument');
    // Not an address of this host: past our check, and refused by the system.
    expect(await codeOf(serve({ host: '192.0.2.1' }))).toBe('refused');
    for (const host of ['0.0.0.0', '::', '0::0', '0']) expect(await codeOf(serve({ host })), host).toBe('bad-argument');
  });
});

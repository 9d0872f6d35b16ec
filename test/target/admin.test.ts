/** The door for commands: what it writes, whom the target refuses from then on, and what it does not let in. */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Problem } from '../../src/kit/problem.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { shortPathOf } from '../../src/posix/short-path.ts';
import type { Aside } from '../../src/store/points-record.ts';
import { askTarget } from '../../src/target/admin-client.ts';
import { startAdmin, type Admin } from '../../src/target/admin.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { frameType } from '../../src/wire/frame.ts';
import { silent, TargetSite } from './peer.ts';

const failover = (step: 'begun' | 'cancelled' | 'committed', generation: number, point = 1): Aside => ({
  type: 'failover',
  body: { id: 'unplanned-1', step, generation, point, atMs: Date.UTC(2026, 0, 2) },
});

describe('the admin socket', () => {
  let directory = '';
  let site: TargetSite;
  let admin: Admin;
  let data = '';
  beforeEach(async () => {
    directory = await mkdtemp(path.join(tmpdir(), 'tidemark-admin-'));
    // Far longer than the address of a Unix socket.
    const deep = path.join(directory, 'x'.repeat(100));
    await posixFiles.makeDirectory(deep);
    site = await TargetSite.start({ directory: deep });
    data = path.join(deep, 'data');
    const record = (machine: string, entry: Aside): Promise<void> => site.target.record(machine, entry);
    admin = await startAdmin({ files: posixFiles, logger: silent(), data, record });
  });
  afterEach(async () => {
    await admin.close();
    await site.remove();
    await rm(directory, { recursive: true, force: true });
  });

  it('is for its owner only, and gone when it is closed', async () => {
    expect((await stat(path.join(data, 'admin.sock'))).mode & 0o777).toBe(0o600);
    await admin.close();
    expect(await askTarget(data, { machine: 'm1', entry: failover('begun', 1) })).toBe(false);
  });

  it('has a failover begun: the session ends, the source is refused with the evidence, until it is cancelled', async () => {
    const { peer, disk } = await site.session();
    const seq = peer.cycle(disk);
    peer.sealed(disk, seq, 0);
    await peer.next(frameType.durable);
    peer.point(Buffer.from((site.store().disks[0] ?? expect.fail()).leaves.workingRoot()).toString('hex'), [seq]);
    await peer.next(frameType.committed);
    expect(await askTarget(data, { machine: 'm1', entry: failover('begun', 1) })).toBe(true);
    const told = decodeErrorMessage((await peer.next(frameType.error)).body);
    expect(told).toMatchObject({ code: 'failed-over', retryable: false });
    for (const words of ['unplanned-1', 'point 1', 'generation 1', '2026-01-02']) expect(told.message).toContain(words);
    const again = site.connect();
    again.hello('m1');
    expect(decodeErrorMessage((await again.next(frameType.error)).body).code).toBe('failed-over');
    await expect(askTarget(data, { machine: 'm1', entry: failover('begun', 2) })).rejects.toMatchObject({
      code: 'bad-record',
    });
    expect(await askTarget(data, { machine: 'm1', entry: failover('cancelled', 2) })).toBe(true);
    await site.session();
    // Other machines were never meant.
    await site.session('m2');
  });

  it('has the source refused while a failover runs that its points lost', async () => {
    await site.remove();
    let lost: Problem | null = new Problem('failed-over', 'started elsewhere');
    site = await TargetSite.start({ startedElsewhere: () => Promise.resolve(lost) });
    const refused = site.connect();
    refused.hello('m1');
    expect(decodeErrorMessage((await refused.next(frameType.error)).body).code).toBe('failed-over');
    lost = null;
    await site.session();
  });

  it('refuses what is not one of its requests, and writes nothing', async () => {
    const before = site.target.stores().size;
    const bad: readonly [string, string][] = [
      ['POST /v1/asides', '{'],
      ['POST /v1/asides', JSON.stringify({ machine: 'm1' })],
      ['POST /v1/asides', JSON.stringify({ machine: '../m1', entry: failover('begun', 1) })],
      [
        'POST /v1/asides',
        JSON.stringify({ machine: 'm1', entry: { type: 'epoch', body: { epoch: 9, instance: 'x', atMs: 1 } } }),
      ],
      ['POST /v1/asides', JSON.stringify({ machine: 'm1', entry: failover('begun', 1), more: 1 })],
      ['GET /v1/asides', ''],
      ['POST /v1/points', '{}'],
    ];
    for (const [line, body] of bad) expect(await rawRequest(data, line, body), line).toMatch(/^HTTP\/1.1 400 /);
    const endless = JSON.stringify({ machine: 'm1', filler: 'x'.repeat(100_000) });
    expect(await rawRequest(data, 'POST /v1/asides', endless)).toContain('too-large');
    expect(site.target.stores().size).toBe(before);
  });
});

function rawRequest(data: string, line: string, body: string): Promise<string> {
  const short = shortPathOf(data);
  return new Promise<string>((resolve, reject) => {
    let text = '';
    const socket = connect({ path: `${short.path}/admin.sock` });
    socket.on('data', (piece) => (text += String(piece)));
    socket.on('error', (error) => {
      if (text === '') reject(error);
    });
    socket.on('close', () => {
      resolve(text);
    });
    socket.end(`${line} HTTP/1.1\r\nhost: x\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  }).finally(() => {
    short.close();
  });
}

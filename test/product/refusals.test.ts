/**
 * Bad input and strangers, against the real program: each is refused with an exit code of the closed list, the message names the thing and
 * the remedy, and nothing was changed. Meanwhile the honest go on.
 */
import { copyFile, cp, mkdir, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tidemark, type CommandResult } from '../../scripts/demo/process.ts';
import { ControlClient } from '../../src/control/client.ts';
import { exitCodes, type ExitName } from '../../src/fatal.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { connect } from '../../src/transport/client.ts';
import type { Connection, Role } from '../../src/transport/connection.ts';
import { loadCredentials } from '../../src/transport/credentials.ts';
import { decodeErrorMessage, type ErrorMessage } from '../../src/wire/error.ts';
import { decodeFrame, frameType } from '../../src/wire/frame.ts';
import { encodeHello, protocolVersion } from '../../src/wire/hello.ts';
import { command } from './command.ts';
import { MiB, writeImage } from './content.ts';
import { identityOf, machine, Scene } from './scene.ts';

const size = 8 * MiB;
const writableFrom = 6 * MiB;
const stepMs = 30_000;

let scene: Scene;

beforeAll(async () => {
  scene = await Scene.open({
    image: (file) => writeImage(file, size, writableFrom, 11),
    writer: { from: writableFrom, pauseMs: 10 },
    site: { reporting: true },
  });
  await scene.site.startTarget();
  await scene.site.startProcessServer();
  await scene.startLife();
  await scene.untilPoints('the first point', (points) => points.length > 0);
}, 60_000);

afterAll(async () => {
  await scene.close();
}, 30_000);

/** It was refused as `name`; what it said on stderr holds all of `says`. */
function expectRefusal(result: CommandResult, name: ExitName, ...says: readonly (string | RegExp)[]): void {
  expect(result, result.stderr).toMatchObject({ code: exitCodes[name].code, stdout: '' });
  for (const words of says) expect(result.stderr).toMatch(typeof words === 'string' ? escaped(words) : words);
}

function escaped(text: string): RegExp {
  return new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`));
}

/** An agent beside the honest one: own directory, own socket, and what the case changes. */
async function otherAgent(options: {
  readonly image?: string;
  readonly data?: string;
  readonly credentials?: string;
  readonly settings?: Readonly<Record<string, string | number>>;
}): Promise<CommandResult> {
  const config = await scene.site.writeAgentConfig('other.yaml', options.settings);
  const text = (await readFile(config, 'utf8'))
    .replace(scene.image, options.image ?? scene.image)
    .replace(/socket: .*/, `socket: ${scene.file('other.sock')}`);
  await writeFile(config, text);
  const data = options.data ?? scene.file('other-agent');
  const credentials = options.credentials ?? scene.file('agent.credentials');
  return tidemark(
    ['agent', '--config', config, '--data', data, '--credentials', credentials, '--metrics', '127.0.0.1:0'],
    { timeoutMs: 15_000 },
  );
}

/** Names, sizes and change times of everything below a directory. */
async function snapshot(directory: string): Promise<string[]> {
  const names = await readdir(directory, { recursive: true });
  const facts = await Promise.all(
    names.map(async (name) => {
      const { size: bytes, mtimeMs } = await stat(path.join(directory, name));
      return `${name} ${bytes} ${mtimeMs}`;
    }),
  );
  return facts.sort();
}

describe('an agent is refused', () => {
  it('as the second one of an image, and learns who is first', { timeout: stepMs }, async () => {
    const first = scene.site.role('agent').pid;
    const refused = await otherAgent({});
    expectRefusal(refused, 'locked', scene.image, `process ${first}`, 'agent', `stop process ${first}`);
    expect(scene.site.role('agent').isOver).toBe(false);
  });

  it('when its image is missing, or no whole number of sectors, and makes nothing', { timeout: stepMs }, async () => {
    const missing = scene.file('missing.raw');
    expectRefusal(await otherAgent({ image: missing }), 'not-found', missing, /create the image|check the path/);
    await expect(stat(missing)).rejects.toThrow('ENOENT');
    const odd = scene.file('odd.raw');
    await writeFile(odd, Buffer.alloc(MiB + 100));
    expectRefusal(await otherAgent({ image: odd }), 'usage', '512', String(MiB + 100));
    expect((await readdir(scene.file('other-agent')).catch(() => [])).filter((name) => name.endsWith('.hrl'))).toEqual(
      [],
    );
  });

  it('when its block size is not a power of two, or a key is unknown', { timeout: stepMs }, async () => {
    const odd = await otherAgent({ settings: { blockSize: 60_000 } });
    expectRefusal(odd, 'usage', 'agent.blockSize', 'power of two', '--block-size');
    const unknown = await otherAgent({ settings: { intervalSecond: 5 } });
    expectRefusal(unknown, 'usage', '"intervalSecond"', 'did you mean "intervalSeconds"');
  });

  it("with another machine's certificate, or another role's (C8)", { timeout: stepMs }, async () => {
    const foreign = await scene.site.enroll('agent', 'web2', scene.file('web2.credentials'));
    expectRefusal(await otherAgent({ credentials: foreign }), 'refused', 'web2', machine, 'enroll');
    const target = scene.file('target.credentials');
    expectRefusal(await otherAgent({ credentials: target }), 'refused', 'target target-1', `agent ${machine}`);
    const listens = ['--listen', '127.0.0.1:0', '--metrics', '127.0.0.1:0', '--credentials', foreign];
    for (const role of [['target'], ['process-server', '--target', scene.site.targetAddress]]) {
      const refused = await tidemark([...role, '--data', scene.file('nothing'), ...listens], { timeoutMs: 15_000 });
      expectRefusal(refused, 'refused', 'agent web2', 'enroll');
    }
    await expect(stat(scene.file('nothing'))).rejects.toThrow('ENOENT');
  });
});

describe('a registration key is refused', () => {
  const enrollWith = (key: string, into: string): Promise<CommandResult> =>
    tidemark(['enroll', 'web3', '--control-url', scene.site.controlUrl, '--key-file', '-', '--into', into], {
      input: key,
    });
  const remedy = 'tidemark token';

  it('when it was used before', { timeout: stepMs }, async () => {
    const key = (await command(['token', 'create', ...scene.site.operator, '--name', 'web3'])).stdout.trim();
    expect(await enrollWith(key, scene.file('web3'))).toMatchObject({ code: 0 });
    expectRefusal(await enrollWith(key, scene.file('again')), 'refused', 'registration key', remedy);
    expect(await readdir(scene.file('again')).catch(() => [])).not.toContain('cert.pem');
  });

  it('when its time is over', { timeout: stepMs }, async () => {
    const token = (await readFile(path.join(scene.file('control'), 'operator.token'), 'utf8')).trim();
    const client = new ControlClient({ url: scene.site.controlUrl, access: { kind: 'operator', token }, clock });
    const { value } = await client.call('createRegistrationKey', { body: { role: 'agent', ttlSeconds: 1 } });
    client.close();
    await clock.sleep(1_200);
    expectRefusal(await enrollWith(value.registrationKey, scene.file('late')), 'refused', 'registration key', remedy);
  });
});

describe('a stranger at the doors', () => {
  async function knock(credentials: string, address: string, expectRole: Role): Promise<Connection> {
    const [host = '', port = ''] = address.split(':');
    const loaded = await loadCredentials(files, credentials, clock.wallMs());
    return connect({ host, port: Number(port), credentials: loaded, expectRole, clock });
  }

  it('of the wrong role does not get in, at 9443 or at 9444', { timeout: stepMs }, async () => {
    const { site } = scene;
    for (const who of ['target', 'process-server'])
      await expect(
        knock(scene.file(`${who}.credentials`), site.processServerAddress, 'process-server'),
      ).rejects.toMatchObject({ code: 'refused', message: expect.stringMatching(/role|certificate/) as string });
    for (const who of ['agent', 'target'])
      await expect(knock(scene.file(`${who}.credentials`), site.targetAddress, 'target')).rejects.toMatchObject({
        code: 'refused',
        message: expect.stringMatching(/role|certificate/) as string,
      });
  });

  it("who names another machine than its certificate is told so and learns nothing of that machine's disks", async () => {
    const connection = await knock(scene.file('web2.credentials'), scene.site.processServerAddress, 'process-server');
    const told = new Promise<ErrorMessage>((resolve, reject) => {
      connection.onFrame((bytes) => {
        const frame = decodeFrame(bytes);
        if (frame.type === frameType.error) resolve(decodeErrorMessage(frame.body));
        else reject(new Error(`a frame of type ${frame.type} came first`));
      });
    });
    const instance = '00'.repeat(16);
    await connection.send(
      encodeHello({ protocol: [protocolVersion], role: 'agent', machine, version: '0', features: [], instance }),
    );
    expect(await told).toMatchObject({ code: 'not-authorised', retryable: false });
    expect(await connection.closed).toMatchObject({ by: 'peer' });
  });
});

describe('a process server is refused', () => {
  it('as the second one of a spool, before it takes anything', { timeout: stepMs }, async () => {
    const { site } = scene;
    const words = ['process-server', '--data', scene.file('ps'), '--listen', '127.0.0.1:0', '--metrics', '127.0.0.1:0'];
    const credentials = ['--credentials', scene.file('process-server.credentials'), '--target', site.targetAddress];
    const second = await tidemark([...words, ...credentials], { timeoutMs: 15_000 });
    expectRefusal(second, 'locked', path.join(scene.file('ps'), 'spool'));
  });
});

describe('a target is refused', () => {
  const start = (data: string): Promise<CommandResult> =>
    tidemark(
      ['target', '--data', data, '--listen', '127.0.0.1:0', '--metrics', '127.0.0.1:0'].concat(
        '--credentials',
        scene.file('target.credentials'),
      ),
      { timeoutMs: 15_000 },
    );

  it('as the second one of a directory', { timeout: stepMs }, async () => {
    const first = scene.site.role('target').pid;
    expectRefusal(await start(scene.site.targetData), 'locked', scene.site.targetData, `process ${first}`);
  });

  it('on a directory of another version, as is every reader of it', { timeout: stepMs }, async () => {
    const data = scene.file('later-version');
    await mkdir(data);
    await cp(path.join(scene.site.targetData, 'vault.key'), path.join(data, 'vault.key'));
    const facts = JSON.parse(await readFile(path.join(scene.site.targetData, 'tidemark.json'), 'utf8')) as object;
    await writeFile(path.join(data, 'tidemark.json'), JSON.stringify({ ...facts, format: 99 }));
    const before = await snapshot(data);
    expectRefusal(await start(data), 'wrong-version', data, 'format 99', 'version of tidemark');
    expectRefusal(await command(['points', '--data', data]), 'wrong-version', 'format 99');
    expect(await snapshot(data)).toEqual(before);
  });
});

/** Last, because the agent is stopped and control is gone. */
describe('in the end', () => {
  it('data flows while control is down', { timeout: stepMs }, async () => {
    const before = (await scene.points()).length;
    await scene.site.kill('control');
    await scene.untilPoints('two more points', (points) => points.length >= before + 2);
    const asked = await command(['status', ...scene.site.operator]);
    expectRefusal(asked, 'unreachable', new URL(scene.site.controlUrl).port);
  });

  it(
    'an image that was made smaller, or a state of another version, stops the agent before it writes',
    { timeout: stepMs },
    async () => {
      await scene.endLife();
      const points = await scene.points();
      const data = scene.file('agent');
      const whole = scene.file('whole.raw');
      await rename(scene.image, whole);
      await copyFile(whole, scene.image);
      await truncate(scene.image, size - MiB);
      const before = await snapshot(data);
      const shrunk = await otherAgent({ data });
      expectRefusal(shrunk, 'usage', String(size - MiB), String(size), 'give the image its size back');
      expect(await snapshot(data)).toEqual(before);
      await rm(scene.image);
      await rename(whole, scene.image);
      await writeFile(path.join(data, 'vda.json'), JSON.stringify({ format: 2 }));
      expectRefusal(await otherAgent({ data }), 'wrong-version', 'vda.json', 'move the file away');
      expect((await scene.points()).map(identityOf)).toEqual(points.map(identityOf));
      expect(await scene.faults(points.slice(-1))).toEqual([]);
    },
  );
});

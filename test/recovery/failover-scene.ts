/** A store without a running target, and `tidemark failover` on it: the command line in this process, the serving processes real ones. */
import { readdir, readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { expect } from 'vitest';
import type { FailoverReport } from '../../src/cli/failover-roles.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { lockHolder } from '../../src/posix/lock.ts';
import { parseNbdUri } from '../../src/recovery/qemu.ts';
import type { MachineDefinition } from '../../src/wire/definition.ts';
import { command } from '../product/command.ts';
import { MachineLife } from '../store/machine-fixture.ts';

export const machine = 'm1';
const blockSize = 4096;

export class FailoverScene {
  readonly directory: string;
  readonly #life: MachineLife;
  /** What the disk holds as of each point. */
  readonly images: readonly Buffer[];

  private constructor(life: MachineLife, images: readonly Buffer[]) {
    this.#life = life;
    this.directory = life.directory;
    this.images = images;
  }

  /** Points 1 to 3, proven; the store is closed. */
  static async make(definition?: MachineDefinition): Promise<FailoverScene> {
    const life = await MachineLife.begin();
    const images: Buffer[] = [];
    for (const blocks of [
      [1, 7, 8],
      [2, 7],
      [3, 2047],
    ]) {
      await life.point(
        blocks.map((block) => ({ block })),
        definition,
      );
      images.push(imageOf(life));
    }
    await life.prove();
    await life.close();
    return new FailoverScene(life, images);
  }

  get data(): string {
    return path.join(this.directory, 'data');
  }

  get vault(): string {
    return path.join(this.directory, 'vault.key');
  }

  /** Of the point. */
  image(point: number): Buffer {
    return this.images[point - 1] ?? expect.fail(`there is no point ${point}`);
  }

  run(...words: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    return command([...words, '--data', this.data, '--vault', this.vault, '--json']);
  }

  async ok<T = FailoverReport>(...words: string[]): Promise<T> {
    const { code, stdout, stderr } = await this.run(...words);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    return JSON.parse(stdout) as T;
  }

  /** Names in the directory of failovers. */
  async failovers(): Promise<string[]> {
    const names = await readdir(path.join(this.data, 'machines', machine, 'failovers')).catch(() => []);
    return names.filter((name) => name !== 'count.json');
  }

  async list(): Promise<readonly FailoverReport[]> {
    return (await this.ok<{ failovers: FailoverReport[] }>('failover', 'list', machine)).failovers;
  }

  /** Ends every failover, whatever its state, and removes everything. */
  async end(): Promise<void> {
    await this.run('failover', 'cleanup', machine, '--all');
    await this.run('failover', 'cancel', machine, '--yes');
    for (const { directory } of (await this.list()).filter(({ served }) => served))
      process.kill(await pidOf(directory), 'SIGKILL');
    await this.#life.remove();
  }
}

function imageOf(life: MachineLife): Buffer {
  const image = Buffer.alloc(2048 * blockSize);
  for (const [block, content] of life.image) content.copy(image, block * blockSize);
  return image;
}

async function pidOf(directory: string): Promise<number> {
  return (JSON.parse(await readFile(path.join(directory, 'process.json'), 'utf8')) as { pid: number }).pid;
}

/** SIGKILL to the process that serves it; resolves when it is gone. */
export async function killServing({ directory }: FailoverReport): Promise<void> {
  const pid = await pidOf(directory);
  process.kill(pid, 'SIGKILL');
  // The last of its threads gives its locks back.
  for (let tries = 0; tries < 500; tries += 1) {
    if ((await lockHolder(posixFiles, systemClock, directory)) === null) return;
    await systemClock.sleep(10);
  }
  throw new Error(`process ${pid} does not end`);
}

export function uriOf(report: FailoverReport, disk = 'vda'): string {
  return report.disks.find(({ name }) => name === disk)?.uri ?? expect.fail(`${disk} is not served`);
}

/** Runs `use` with a client of the failover's disk. */
export async function withDisk<T>(report: FailoverReport, use: (client: NbdClient) => Promise<T>): Promise<T> {
  const address = parseNbdUri(uriOf(report));
  const where = address.transport === 'unix' ? { unixPath: address.path } : { host: address.host, port: address.port };
  const client = await connectNbd(where, { exportName: address.export, clock: systemClock });
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}

export function contentOf(report: FailoverReport): Promise<Buffer> {
  return withDisk(report, (client) => client.read(0, client.size));
}

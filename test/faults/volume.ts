/**
 * A small file system in memory, for what happens when one is full or read-only. Unmounted when closed, or with the test's process.
 */
import { spawnSync } from 'node:child_process';
import { mkdir, rm, statfs, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { requireRoot, requireTool, runToolOk } from '../tools.ts';

const mounted = new Set<string>();
process.on('exit', () => {
  for (const directory of mounted) spawnSync('umount', ['--lazy', directory]);
});

/** Whether this machine lets a test mount. */
export function requireMounts(): boolean {
  return requireTool('mount', 'umount') && requireRoot('mounts');
}

export class Volume {
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
  }

  /** Mounts at `directory`, made if missing. */
  static async open(directory: string, bytes: number): Promise<Volume> {
    await mkdir(directory, { recursive: true });
    await runToolOk('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tidemark-test', directory]);
    mounted.add(directory);
    return new Volume(directory);
  }

  /** Leaves at most `free` bytes: of them, or more, whoever writes there meanwhile takes. */
  async fill(free: number): Promise<void> {
    await this.empty();
    const { bavail, bsize } = await statfs(this.directory);
    try {
      await writeFile(this.#ballast, Buffer.alloc(Math.max(0, bavail * bsize - free)));
    } catch (error) {
      // Then it is full.
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error;
    }
  }

  async empty(): Promise<void> {
    await rm(this.#ballast, { force: true });
  }

  async remount(access: 'ro' | 'rw'): Promise<void> {
    await runToolOk('mount', ['-o', `remount,${access}`, this.directory]);
  }

  /** Idempotent. */
  async close(): Promise<void> {
    if (mounted.delete(this.directory)) await runToolOk('umount', ['--lazy', this.directory]);
  }

  get #ballast(): string {
    return path.join(this.directory, 'ballast');
  }
}

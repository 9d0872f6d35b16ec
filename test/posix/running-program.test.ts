/** Programs beside us: their channels, their end, and that they do not outlive us. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { startProgram } from '../../src/posix/running-program.ts';
import { requireTool } from '../tools.ts';

const shell = (script: string, channels = 0) =>
  startProgram({ program: 'sh', args: ['-c', script], channels, clock: systemClock });

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Another process of ours: starts a shell with these words, as source, and goes on with `then`. */
function parentOf(words: string, then: string, program = process.execPath, before: readonly string[] = []) {
  const source = (file: string): string => fileURLToPath(new URL(`../../src/${file}`, import.meta.url));
  const script = `
    const { startProgram } = await import('${source('posix/running-program.ts')}');
    const { systemClock: clock } = await import('${source('kit/clock.ts')}');
    const program = await startProgram({ program: 'sh', args: ['-c', ${words}], channels: 0, clock });
    ${then};`;
  const parent = spawn(program, [...before, '--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void parent.kill('SIGKILL'));
  return parent;
}

/** Processes that have `word` in their command line, but for those of ours that start them. */
async function named(word: string): Promise<number[]> {
  const found: number[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (words.includes(word)) found.push(Number(pid));
  }
  return found;
}

const firstLine = async (stream: NodeJS.ReadableStream): Promise<string> =>
  String((await once(stream, 'data'))[0]).trim();

describe('a program that runs beside us', () => {
  it('is talked to on sockets it has from the start', async () => {
    const program = await shell('read line <&4; echo "heard $line" >&4; echo sad >&2; exit 3', 2);
    program.channels[1]?.write('hello\n');
    expect(program.channels).toHaveLength(2);
    expect(await firstLine(program.channels[1] ?? process.stdin)).toBe('heard hello');
    expect(await program.ended).toBe('ended with 3');
    expect(program.said()).toBe('sad');
    expect(await program.end()).toBe(true);
  });

  it('is ended, whether it wants to or not', async () => {
    const program = await shell('trap "" TERM; echo $$; while true; do sleep 0.1; done');
    const pid = Number(await firstLine(program.output));
    expect(isAlive(pid)).toBe(true);
    expect(await program.end()).toBe(true);
    expect(await program.ended).toBe('was ended by SIGKILL');
    expect(isAlive(pid)).toBe(false);
    expect(await program.end()).toBe(true);
  });

  it('is not there to be started', async () => {
    await expect(
      startProgram({ program: 'no-such-program', args: [], channels: 0, clock: systemClock }),
    ).rejects.toThrow('there is no program no-such-program');
  });

  it('does not outlive us when we are killed', async () => {
    const parent = parentOf(`'echo $$; exec sleep 60'`, 'program.output.pipe(process.stdout)');
    const pid = Number(await firstLine(parent.stdout));
    onTestFinished(() => {
      if (isAlive(pid)) process.kill(pid, 'SIGKILL');
    });
    expect(isAlive(pid)).toBe(true);
    parent.kill('SIGKILL');
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), { timeout: 5_000 });
  });

  it.skipIf(!requireTool('strace'))('does not outlive us when we are killed before the kernel was asked', async () => {
    const name = `tidemark-orphan-${process.pid}`;
    onTestFinished(async () => {
      for (const pid of await named(name)) process.kill(pid, 'SIGKILL');
    });
    // Who asks the kernel is slow at it, and we are dead by then.
    const slow = ['-f', '-qq', '-o', '/dev/null', '-e', 'inject=prctl:delay_enter=300000', process.execPath];
    const words = `'while sleep 1; do :; done', '${name}'`;
    const parent = parentOf(words, `console.log('started'); process.kill(process.pid, 'SIGKILL')`, 'strace', slow);
    expect(await firstLine(parent.stdout)).toBe('started');
    // It ends with the last of those it looks at.
    await expect.poll(() => parent.signalCode, { timeout: 10_000 }).toBe('SIGKILL');
    expect(await named(name)).toEqual([]);
  });
});

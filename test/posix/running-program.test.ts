/** Programs beside us: their channels, their end, and that they do not outlive us. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { startProgram } from '../../src/posix/running-program.ts';

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
    const module = fileURLToPath(new URL('../../src/posix/running-program.ts', import.meta.url));
    const clock = fileURLToPath(new URL('../../src/kit/clock.ts', import.meta.url));
    const script = `
      const { startProgram } = await import('${module}');
      const { systemClock: clock } = await import('${clock}');
      const program = await startProgram({ program: 'sh', args: ['-c', 'echo $$; exec sleep 60'], channels: 0, clock });
      program.output.pipe(process.stdout);`;
    const parent = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    onTestFinished(() => {
      parent.kill('SIGKILL');
    });
    const pid = Number(await firstLine(parent.stdout));
    onTestFinished(() => {
      if (isAlive(pid)) process.kill(pid, 'SIGKILL');
    });
    expect(isAlive(pid)).toBe(true);
    parent.kill('SIGKILL');
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), { timeout: 5_000 });
  });
});

/**
 * Against QEMU's own guest agent, run as a process of this machine. It is never allowed to freeze: `--block-rpcs` takes those commands away, and the
 * test makes sure of that before it asks for anything.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { requireTool } from '../tools.ts';
import { QuietSurroundings, report, until } from './quiet-surroundings.ts';

interface GuestInfo {
  readonly return: { readonly supported_commands: readonly { readonly name: string; readonly enabled: boolean }[] };
}

/** Its socket is there a moment before it listens. */
async function accepted(socketPath: string): Promise<boolean> {
  const socket = connect(socketPath);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** What it says to one command. */
async function ask(socketPath: string, command: string): Promise<unknown> {
  const socket = connect(socketPath);
  try {
    socket.setEncoding('utf8');
    socket.write(`${JSON.stringify({ execute: command })}\n`);
    let text = '';
    while (!text.includes('\n')) text += String((await once(socket, 'data'))[0]);
    return JSON.parse(text);
  } finally {
    socket.destroy();
  }
}

describe.skipIf(!requireTool('qemu-ga'))('a real guest agent', () => {
  let around: QuietSurroundings;
  let program: ChildProcess;

  beforeEach(async () => {
    around = new QuietSurroundings();
    const { socket, directory } = around;
    const forbidden = 'guest-fsfreeze-freeze,guest-fsfreeze-freeze-list';
    const args = ['-m', 'unix-listen', '-p', socket, '-t', directory, '-f', `${directory}/pid`, '-b', forbidden];
    program = spawn('qemu-ga', args, { stdio: ['ignore', 'ignore', 'inherit'] });
    await until(() => existsSync(socket));
    while (!(await accepted(socket))) await setTimeout(20);
    const info = (await ask(socket, 'guest-info')) as GuestInfo;
    const enabled = info.return.supported_commands.filter((command) => command.enabled).map(({ name }) => name);
    expect(enabled).toContain('guest-sync-delimited');
    if (enabled.some((name) => name.startsWith('guest-fsfreeze-freeze')))
      throw new Error('it could freeze this machine');
  });
  afterEach(async () => {
    const ended = once(program, 'exit');
    program.kill();
    await ended;
    await around.remove();
  });

  test('is understood, its refusal to freeze named, and nothing is owed to it', async () => {
    const app = await around.open({ socket: around.socket, timeoutMs: 5000 });
    for (let round = 0; round < 2; round += 1) {
      const attempt = app.attempt(() => Promise.resolve(report));
      expect(await attempt.cutAll([], 1)).toBe(report);
      expect(attempt.evidence).toBeNull();
      expect(attempt.failure).toMatch(/^guest agent: guest-fsfreeze-freeze: .*guest-fsfreeze-freeze.* disabled/);
      await until(() => app.owed === null && !existsSync(around.marker));
    }
    expect(await ask(around.socket, 'guest-fsfreeze-status')).toEqual({ return: 'thawed' });
  });

  test('left in the middle of a command by somebody else, and in debt, it is thawed all the same', async () => {
    const rude = connect(around.socket);
    await once(rude, 'connect');
    rude.end('{"execute": "guest-inf');
    await once(rude, 'close');
    writeFileSync(around.marker, '{}');
    const app = await around.open({ socket: around.socket, timeoutMs: 5000 });
    await until(() => app.owed === null && !existsSync(around.marker));
  });
});

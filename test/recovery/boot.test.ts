/**
 * Boot proofs of real machines, emulated: each starts from its disk as in life (firmware, boot loader, kernel), and answers by its console, its
 * guest agent or a port. Where QEMU has to misbehave, a script takes its place.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { type BootOptions, proveBoot } from '../../src/recovery/boot.ts';
import { parseProbe } from '../../src/recovery/probe.ts';
import type { MachineDefinition } from '../../src/wire/definition.ts';
import { type GuestServices, makeBootable, requireBootable } from '../guest/bootable.ts';
import { requireTool } from '../tools.ts';
import { plain } from './definitions.ts';

async function newDirectory(): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-boot-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Serves a disk as a point would be; returns its address. */
async function serve(directory: string, marker: string, services: GuestServices = {}): Promise<string> {
  const image = path.join(directory, `${marker}.raw`);
  await makeBootable(image, marker, path.join(directory, `${marker}.scratch`), services);
  const socket = path.join(directory, `${marker}.sock`);
  const server = spawn('qemu-nbd', ['--persistent', '--format=raw', '--export-name=root', `--socket=${socket}`, image]);
  onTestFinished(() => void server.kill('SIGKILL'));
  await vi.waitFor(async () => expect(await posixFiles.exists(socket)).toBe(true), { timeout: 10_000 });
  return `nbd+unix:///root?socket=${socket}`;
}

function options(directory: string, uri: string, probe: string, definition: MachineDefinition = plain): BootOptions {
  return {
    machine: { title: 'web-test-1', definition, disks: [{ name: 'root', uri }] },
    probe: parseProbe(probe),
    answerSeconds: 100,
    directory: path.join(directory, 'boot'),
    beganMs: systemClock.monotonicMs(),
    files: posixFiles,
    clock: systemClock,
    signal: new AbortController().signal,
  };
}

/** A program in QEMU's place. It tells its process number in `pid`. */
async function insteadOfQemu(directory: string, script: string): Promise<string> {
  const file = path.join(directory, 'qemu');
  await writeFile(file, `#!/bin/sh\necho $$ > ${directory}/pid\n${script}\n`, { mode: 0o755 });
  return file;
}

async function isAlive(directory: string): Promise<boolean> {
  const pid = Number(await readFile(path.join(directory, 'pid'), 'utf8'));
  return await posixFiles.exists(`/proc/${pid}`);
}

const hangsUnderKvm = `case "$*" in *'-accel kvm'*) exec sleep 60;; esac\nexec qemu-system-x86_64 "$@"`;

describe.skipIf(!requireBootable('qemu-nbd', 'qemu-ga'))('a machine', () => {
  it('starts from its disk, emulated when KVM hangs, and leaves evidence', { timeout: 240_000 }, async () => {
    const directory = await newDirectory();
    const qemu = await insteadOfQemu(directory, hangsUnderKvm);
    const uri = await serve(directory, 'first');
    const proof = await proveBoot({ ...options(directory, uri, 'serial:marker: first'), qemu });
    expect(proof).toMatchObject({ answered: true, detail: 'marker: first', accelerator: 'tcg' });
    expect(proof.withoutKvm).toBe('KVM did not answer within 3000 ms');
    expect(proof.qemuVersion).toMatch(/^\d+\.\d+\.\d+$/);
    expect(await isAlive(directory)).toBe(false);
    const evidence = (name: string) => readFile(path.join(directory, 'boot', name));
    expect(JSON.parse((await evidence('proof.json')).toString())).toEqual(proof);
    expect((await evidence('console.log')).toString()).toContain('marker: first');
    expect((await evidence('screen.png')).subarray(1, 4).toString()).toBe('PNG');
  });

  it('answers by its guest agent, and by a port of a network that leads nowhere', { timeout: 240_000 }, async () => {
    const directory = await newDirectory();
    const uri = await serve(directory, 'asked', { agent: true, listen: { address: '10.0.2.15', port: 80 } });
    const byAgent = await proveBoot(options(directory, uri, 'agent'));
    expect(byAgent).toMatchObject({ answered: true, detail: 'the guest agent answered' });
    const definition: MachineDefinition = { ...plain, nics: [{ model: 'virtio' }] };
    const byPort = await proveBoot(options(directory, uri, 'tcp:80', definition));
    expect(byPort).toMatchObject({ answered: true, detail: 'port 80 took a connection' });
  });
});

/** Greets as QEMU does, says something on its console, and answers every command with nothing. */
const saysNothingOfUse = `printf 'Kernel panic - not syncing:\\n\\033[1mno root\\033[0m\\n'
echo '{"QMP": {"version": {"qemu": {"major": 1, "minor": 2, "micro": 3}}}}' >&3
while read -r line <&3; do echo '{"return": {}}' >&3; done
exec sleep 60`;

describe.skipIf(!requireTool('qemu-system-x86_64'))('a machine that does not start', () => {
  const uri = 'nbd+unix:///root?socket=/nowhere';
  let directory = '';

  beforeAll(async () => {
    directory = await mkdtemp(path.join(tmpdir(), 'tidemark-boot-'));
    return () => rm(directory, { recursive: true, force: true });
  });

  it('is said not to, with the last lines of its console, and is ended', async () => {
    const qemu = await insteadOfQemu(directory, saysNothingOfUse);
    const proof = proveBoot({ ...options(directory, uri, 'serial:login:'), answerSeconds: 0.5, qemu });
    await expect(proof).rejects.toMatchObject({
      code: 'not-bootable',
      message: expect.stringContaining(
        'not answered within 0.5 s; its console said last:\nKernel panic - not syncing:\nno root',
      ) as string,
    });
    expect(await isAlive(directory)).toBe(false);
    const kept = await readFile(path.join(directory, 'boot', 'proof.json'), 'utf8');
    expect(JSON.parse(kept)).toMatchObject({ answered: false, qemuVersion: '1.2.3' });
    expect(await readFile(path.join(directory, 'boot', 'console.log'), 'utf8')).toContain('Kernel panic');
  });

  it('is said not to, with what QEMU said', async () => {
    const proof = proveBoot(options(directory, uri, 'agent'));
    await expect(proof).rejects.toMatchObject({
      code: 'not-bootable',
      message: expect.stringContaining("Failed to connect to '/nowhere'") as string,
    });
  });

  it('is ended when the command is interrupted', async () => {
    const qemu = await insteadOfQemu(directory, saysNothingOfUse);
    const signal = AbortSignal.timeout(1_000);
    const proof = proveBoot({ ...options(directory, uri, 'serial:login:'), qemu, signal });
    await expect(proof).rejects.toMatchObject({ code: 'interrupted' });
    expect(await isAlive(directory)).toBe(false);
  });

  it('leaves nothing behind where its failover is removed meanwhile', async () => {
    const qemu = await insteadOfQemu(directory, saysNothingOfUse);
    const gone = await mkdtemp(path.join(directory, 'gone-'));
    const answered = (): Promise<void> => rm(gone, { recursive: true });
    const proof = proveBoot({ ...options(gone, uri, 'serial:no root'), qemu, answered });
    await expect(proof).resolves.toMatchObject({ answered: true });
    expect(await posixFiles.exists(gone)).toBe(false);
  });

  it('is not tried where it can not answer, or nobody can run it', async () => {
    await expect(proveBoot(options(directory, uri, 'tcp:22'))).rejects.toMatchObject({ code: 'bad-argument' });
    const gone = proveBoot({ ...options(directory, uri, 'agent'), qemu: '/nowhere/qemu' });
    await expect(gone).rejects.toMatchObject({ code: 'not-found' });
  });
});

describe('a probe', () => {
  it('is one of four', () => {
    expect(parseProbe('serial:a:b')).toEqual({ kind: 'serial', text: 'a:b' });
    expect(parseProbe('agent')).toEqual({ kind: 'agent' });
    expect(parseProbe('tcp:22')).toEqual({ kind: 'tcp', forward: { port: 22 } });
    const guest = { address: '192.168.1.5', prefix: 24 };
    expect(parseProbe('tcp:192.168.1.5/24:22')).toEqual({ kind: 'tcp', forward: { port: 22, guest } });
  });

  it.each([
    '',
    'serial:',
    'agent:x',
    'tcp:0',
    'tcp:65536',
    'tcp:1.2.3.4:22',
    'tcp:1.2.3.400/24:22',
    'tcp:1.2.3.4/99:22',
    'udp:5',
  ])('is not %j', (text) => {
    expect(() => parseProbe(text)).toThrow('is no probe');
  });
});

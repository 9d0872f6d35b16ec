/**
 * The proof that a point starts: its machine is started on its exports, isolated, and has until a deadline to answer a probe. What was seen is
 * kept whether it answered or not, in `boot/` of the failover (FAILOVER.md): `console.log`, `screen.png`, `proof.json`.
 *
 * Invariants:
 *  1. Every wait has a deadline, and ends when the command is interrupted.
 *  2. The machine is ended before the proof is returned or thrown, but not before who was told of it (`answered`) is done. It holds nothing
 *     open that outlives it: monitor, console and guest agent are sockets and pipes from birth.
 *  3. Emulated, where KVM does not answer (`kvm.ts`): slower, and true all the same.
 */
import * as path from 'node:path';
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { findStartable, type RunningProgram, startProgram } from '../posix/running-program.ts';
import type { MachineDefinition } from '../wire/definition.ts';
import { type Accelerator, chooseAccelerator } from './kvm.ts';
import { answered, type BootProbe, type Started } from './probe.ts';
import { type MachineToRun, machineWords, qemuProgram } from './qemu.ts';
import { Qmp } from './qmp.ts';
import { SerialConsole } from './serial-console.ts';
import { findUefi } from './uefi.ts';

export interface BootOptions {
  readonly machine: Omit<MachineToRun, 'network'>;
  readonly probe: BootProbe;
  readonly answerSeconds: number;
  /** Evidence goes there; made if it is missing. */
  readonly directory: string;
  /** On the monotonic clock: what the seconds to the answer count from. */
  readonly beganMs: number;
  readonly files: Files;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** The program; left out: the one on the search path. */
  readonly qemu?: string;
  /** Called when the probe was answered; the machine goes on until it resolves, or ends by itself (`ended`). */
  readonly answered?: (proof: BootProof, ended: Promise<unknown>) => Promise<void>;
}

export interface BootProof {
  readonly format: 1;
  readonly probe: BootProbe;
  /** What answered, or why nothing did. */
  readonly detail: string;
  readonly answered: boolean;
  /** From the beginning of the command: the measured recovery time when it answered. */
  readonly seconds: number;
  readonly startedMs: number;
  readonly accelerator: Accelerator['name'];
  /** Why not KVM; null: it is. */
  readonly withoutKvm: string | null;
  readonly qemuVersion: string;
}

/**
 * What can be known before anything is started. @throws Problem `not-found`: no QEMU, no firmware; `bad-argument`: the probe needs a network card and
 * the machine has none.
 */
export async function checkBootable(
  files: Files,
  { nics, firmware }: MachineDefinition,
  probe: BootProbe,
  qemu: string = qemuProgram,
): Promise<void> {
  if (probe.kind === 'tcp' && nics.length === 0) {
    throw new Problem('bad-argument', 'the machine has no network card to be asked through', {
      remedy: 'probe its serial console or its guest agent, or protect it with --nic',
    });
  }
  await findStartable(qemu);
  if (firmware === 'uefi') await findUefi(files);
}

/**
 * @throws Problem `not-bootable` with the last lines of the console when the probe was not answered; `interrupted`, or the
 * Problem the signal was aborted with; what `checkBootable` throws.
 */
export async function proveBoot(options: BootOptions): Promise<BootProof> {
  const { machine, probe, clock, files, directory, signal, qemu = qemuProgram } = options;
  await checkBootable(files, machine.definition, probe, qemu);
  await files.makeDirectory(directory);
  const accelerator = await chooseAccelerator(qemu, clock);
  if (signal.aborted) throw interrupted(signal);
  const startedMs = clock.wallMs();
  const program = await startProgram({ program: qemu, args: wordsOf(options, accelerator), channels: 2, clock });
  const serial = new SerialConsole(program.output);
  try {
    const seen = await watch(options, program, serial);
    const proof: BootProof = {
      format: 1,
      probe,
      ...seen,
      seconds: Math.round(clock.monotonicMs() - options.beganMs) / 1000,
      startedMs,
      accelerator: accelerator.name,
      withoutKvm: accelerator.reason,
    };
    await files.replaceFile(path.join(directory, 'proof.json'), Buffer.from(`${JSON.stringify(proof, null, 2)}\n`));
    if (!proof.answered) throw notBootable(proof, serial, directory);
    await options.answered?.(proof, program.ended);
    return proof;
  } finally {
    await program.end();
    await keepConsole(options, serial);
  }
}

/** Who removed the failover meanwhile wants no evidence of it. */
async function keepConsole({ files, directory }: BootOptions, serial: SerialConsole): Promise<void> {
  try {
    await files.replaceFile(path.join(directory, 'console.log'), Buffer.from(serial.text));
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
  }
}

function wordsOf({ machine, probe }: BootOptions, accelerator: Accelerator): string[] {
  return [
    ...machineWords(probe.kind === 'tcp' ? { ...machine, network: { forward: probe.forward } } : machine),
    ...['-accel', accelerator.name, '-vga', 'std', '-display', 'none', '-serial', 'stdio'],
    ...['-chardev', 'socket,id=monitor,fd=3', '-mon', 'chardev=monitor,mode=control'],
    ...['-chardev', 'socket,id=agent,fd=4', '-device', 'virtio-serial'],
    ...['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'],
  ];
}

type Seen = Pick<BootProof, 'answered' | 'detail' | 'qemuVersion'>;

/** Until the probe is answered, the machine is gone, or its time is over; then takes a picture of the screen. */
async function watch(options: BootOptions, program: RunningProgram, serial: SerialConsole): Promise<Seen> {
  const { probe, clock, signal, answerSeconds } = options;
  const [socket, agent] = program.channels;
  if (!socket || !agent) throw new Error('QEMU was started without its channels');
  const over = new AbortController();
  const either = AbortSignal.any([signal, over.signal]);
  const gone = program.ended.then((how): never => {
    throw new Problem('not-started', `QEMU ${how}: ${program.said()}`);
  });
  const deadline = clock.sleep(answerSeconds * 1000, either).then((): never => {
    throw new Problem('timeout', `the probe was not answered within ${answerSeconds} s`);
  });
  const ask = asker(probe, serial, { agent, clock, signal: either });
  let monitor: Qmp | null = null;
  let qemuVersion = 'unknown';
  const answer = async (): Promise<string> => {
    ({ monitor, version: qemuVersion } = await Qmp.open(socket, clock));
    return await ask(monitor);
  };
  const answering = answer().catch(async (error: unknown): Promise<string> => {
    // QEMU that closes its monitor is about to end, and will have said why.
    if (isProblem(error) && error.code === 'closed') return await gone;
    throw error;
  });
  for (const each of [gone, deadline, answering]) each.catch(() => undefined);
  try {
    const detail = await Promise.race([answering, gone, deadline]);
    await takePicture(options, monitor);
    return { answered: true, detail, qemuVersion };
  } catch (error) {
    if (signal.aborted) throw interrupted(signal);
    await takePicture(options, monitor);
    return { answered: false, detail: messageOf(error), qemuVersion };
  } finally {
    over.abort();
  }
}

/** Listens to the console from here on, since a machine may be faster than its monitor. */
function asker(
  probe: BootProbe,
  serial: SerialConsole,
  rest: Omit<Started, 'monitor'>,
): (monitor: Qmp) => Promise<string> {
  if (probe.kind !== 'serial') return (monitor) => answered(probe, { ...rest, monitor });
  const heard = serial.heard(probe.text);
  return () => heard;
}

/** For people; a proof without a picture is a proof. */
async function takePicture({ directory }: BootOptions, monitor: Qmp | null): Promise<void> {
  const filename = path.resolve(directory, 'screen.png');
  await monitor?.execute('screendump', { filename, format: 'png' }).catch(() => undefined);
}

function notBootable(proof: BootProof, serial: SerialConsole, directory: string): Problem {
  const lines = serial.lastLines;
  const said = lines.length === 0 ? 'its console said nothing' : `its console said last:\n${lines.join('\n')}`;
  return new Problem('not-bootable', `the machine did not start: ${proof.detail}; ${said}`, {
    remedy: `look at console.log and screen.png in ${directory}`,
  });
}

/** Who aborts with a Problem says why himself. */
function interrupted({ reason }: AbortSignal): Problem {
  if (isProblem(reason)) return reason;
  return new Problem('interrupted', 'the boot proof was interrupted', {
    remedy: 'the machine was ended; run it again',
  });
}

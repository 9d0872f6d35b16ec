/**
 * Whether KVM runs machines here. That `/dev/kvm` is there says little: it may hang when it is used, or refuse what a machine needs of it. So an
 * empty machine is started with it, in a process of its own, and has until a deadline to let its firmware say a word (port 0x402 of QEMU's debug
 * console): then a processor ran. Everything else means emulation, and the reason is told.
 */
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import { type RunningProgram, startProgram } from '../posix/running-program.ts';

const { boot } = limits.recovery;

export interface Accelerator {
  readonly name: 'kvm' | 'tcg';
  /** Why not KVM; null: it is. */
  readonly reason: string | null;
}

const emptyMachine = [
  ...['-accel', 'kvm', '-machine', 'pc', '-cpu', 'max', '-m', '16', '-nodefaults', '-display', 'none'],
  ...['-chardev', 'stdio,id=firmware', '-device', 'isa-debugcon,iobase=0x402,chardev=firmware'],
];

/** Takes `kvmAnswerMs` at most, and the end of the process. */
export async function chooseAccelerator(qemu: string, clock: Clock): Promise<Accelerator> {
  const machine = await startProgram({ program: qemu, args: emptyMachine, channels: 0, clock });
  try {
    const reason = await whyNot(machine, clock);
    return { name: reason === null ? 'kvm' : 'tcg', reason };
  } finally {
    await machine.end();
  }
}

async function whyNot(machine: RunningProgram, clock: Clock): Promise<string | null> {
  const late = new AbortController();
  const word = new Promise<null>((resolve) => machine.output.once('data', () => resolve(null)));
  const ended = machine.ended.then((how) => `a machine with KVM ${how}: ${machine.said()}`);
  const deadline = clock
    .sleep(boot.kvmAnswerMs, late.signal)
    .then(() => `KVM did not answer within ${boot.kvmAnswerMs} ms`);
  try {
    return await Promise.race([word, ended, deadline]);
  } finally {
    deadline.catch(() => undefined);
    late.abort();
  }
}

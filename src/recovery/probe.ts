/**
 * What a started machine has to do to count as started: one of
 *   `serial:TEXT`                   the text appears on its serial console,
 *   `agent`                         its guest agent answers,
 *   `tcp:PORT`                      its port takes a connection, in the isolated network (it asks there for an address by DHCP),
 *   `tcp:ADDRESS/PREFIX:PORT`       the same, of a machine with a fixed address.
 */
import type { Duplex } from 'node:stream';
import { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { answersOnPort } from './forwarded-port.ts';
import type { IsolatedNetwork } from './qemu.ts';
import type { Qmp } from './qmp.ts';

const { boot } = limits.recovery;

export type BootProbe =
  | { readonly kind: 'serial'; readonly text: string }
  | { readonly kind: 'agent' }
  | { readonly kind: 'tcp'; readonly forward: NonNullable<IsolatedNetwork['forward']> };

/** @throws Problem `bad-argument`. */
export function parseProbe(text: string): BootProbe {
  const [, kind = '', rest = ''] = /^([a-z]+)(?::(.*))?$/s.exec(text) ?? [];
  if (kind === 'agent' && rest === '') return { kind };
  if (kind === 'serial' && rest !== '' && rest.length <= boot.probeTextMax) return { kind, text: rest };
  if (kind === 'tcp') {
    const [, address, prefix, port] = /^(?:([\d.]+)\/(\d{1,2}):)?(\d{1,5})$/.exec(rest) ?? [];
    const number = Number(port ?? 0);
    const inRange = number >= 1 && number <= 65_535;
    if (inRange && address === undefined) return { kind, forward: { port: number } };
    if (
      inRange &&
      address !== undefined &&
      z.ipv4().safeParse(address).success &&
      Number(prefix) >= 8 &&
      Number(prefix) <= 30
    ) {
      return { kind, forward: { port: number, guest: { address, prefix: Number(prefix) } } };
    }
  }
  throw new Problem('bad-argument', `${text} is no probe`, {
    remedy: 'use serial:TEXT, agent, tcp:PORT or tcp:ADDRESS/PREFIX:PORT',
  });
}

/** What a running machine can be asked by. */
export interface Started {
  readonly monitor: Qmp;
  /** Behind QEMU's serial port `org.qemu.guest_agent.0`. */
  readonly agent: Duplex;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** Resolves with what answered, in words, as soon as it did; rejects when the signal aborts, or the machine's monitor is gone. */
export function answered(probe: Exclude<BootProbe, { kind: 'serial' }>, started: Started): Promise<string> {
  switch (probe.kind) {
    case 'agent':
      return agentAnswered(started);
    case 'tcp':
      return answersOnPort(probe.forward.port, started);
  }
}

const sync = 0x7469_6465;

/**
 * `guest-sync-delimited` until it is answered: a byte 0xFF throws away what the guest's parser holds of an earlier try (QEMU guest agent protocol
 * reference). Whatever else comes is of no interest.
 */
async function agentAnswered({ agent, clock, signal }: Started): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let tail = '';
  agent.on('data', (piece: Buffer) => {
    tail = (tail + piece.toString('latin1')).slice(-256);
    if (new RegExp(`"return": ?${sync}\\b`).test(tail)) resolve('the guest agent answered');
  });
  const words = `${JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id: sync } })}\n`;
  const question = Buffer.concat([Buffer.of(0xff), Buffer.from(words)]);
  for (;;) {
    agent.write(question);
    const answer = await Promise.race([promise, clock.sleep(boot.askAgainMs, signal)]);
    if (answer !== undefined) return answer;
  }
}

/**
 * Whether a port of the machine takes a connection, through QEMU's user network. QEMU takes every connection to the forwarded port itself, and
 * tries the guest only then; so that a connection stands says nothing. Its monitor does (`info usernet`): the state of the connection with the
 * guest, and which port of the loopback interface the kernel chose.
 */
import { connect } from 'node:net';
import { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { Qmp } from './qmp.ts';

const { boot } = limits.recovery;

/** Asks until it is so. Rejects when the signal aborts, or the monitor is gone. */
export async function answersOnPort(
  port: number,
  { monitor, clock, signal }: { readonly monitor: Qmp; readonly clock: Clock; readonly signal: AbortSignal },
): Promise<string> {
  for (;;) {
    const forwarded = forwardedPort(await connections(monitor));
    if (forwarded !== null && (await stood(forwarded, monitor, clock, signal))) return `port ${port} took a connection`;
    await clock.sleep(boot.pollMs, signal);
  }
}

async function connections(monitor: Qmp): Promise<string> {
  return z.string().parse(await monitor.execute('human-monitor-command', { 'command-line': 'info usernet' }));
}

/** `TCP[HOST_FORWARD]  12  127.0.0.1 40123  10.0.2.15 22 0 0` → 40123. */
function forwardedPort(usernet: string): number | null {
  const [, port] = /TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s/.exec(usernet) ?? [];
  return port === undefined ? null : Number(port);
}

/** One connection, looked at until it stands, is refused, or has had its time. */
async function stood(port: number, monitor: Qmp, clock: Clock, signal: AbortSignal): Promise<boolean> {
  const socket = connect({ host: '127.0.0.1', port });
  socket.on('error', () => undefined);
  try {
    const untilMs = clock.monotonicMs() + boot.askAgainMs;
    while (!socket.closed && clock.monotonicMs() < untilMs) {
      await clock.sleep(boot.pollMs, signal);
      if (/TCP\[ESTABLISHED\]/.test(await connections(monitor))) return true;
    }
    return false;
  } finally {
    socket.destroy();
  }
}

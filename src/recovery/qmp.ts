/**
 * QEMU's monitor protocol (QEMU Machine Protocol specification, `docs/interop/qmp-spec`): JSON lines over a socket, a greeting first, one answer
 * per command, in order; events in between are passed over. Only what a boot proof asks for.
 *
 * Invariants:
 *  1. A line, whole or not, holds at most `lineBytesMax` of our memory.
 *  2. `execute` settles: answered, refused (Problem `refused`), not answered in time, or the socket ended.
 */
import type { Duplex } from 'node:stream';
import { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';

const { boot } = limits.recovery;

const greetingSchema = z.object({
  QMP: z.object({ version: z.object({ qemu: z.object({ major: z.int(), minor: z.int(), micro: z.int() }) }) }),
});
const answerSchema = z.union([
  z.object({ error: z.object({ class: z.string(), desc: z.string() }) }),
  z.object({ return: z.unknown().refine((value) => value !== undefined) }),
]);

export class Qmp {
  readonly #socket: Duplex;
  readonly #clock: Clock;
  readonly #awaited: PromiseWithResolvers<unknown>[] = [];
  #line = '';
  #ended: Error | null = null;

  private constructor(socket: Duplex, clock: Clock) {
    this.#socket = socket;
    this.#clock = clock;
    socket.setEncoding('utf8');
    socket.on('data', (piece: string) => {
      this.#receive(piece);
    });
    socket.on('close', () => {
      this.#end(new Problem('closed', 'QEMU closed its monitor'));
    });
  }

  /** Waits for the greeting and leaves negotiation. Returns the monitor and QEMU's version. */
  static async open(socket: Duplex, clock: Clock): Promise<{ readonly monitor: Qmp; readonly version: string }> {
    const monitor = new Qmp(socket, clock);
    const { QMP } = greetingSchema.parse(await monitor.#answer('its greeting'));
    await monitor.execute('qmp_capabilities', {});
    const { major, minor, micro } = QMP.version.qemu;
    return { monitor, version: `${major}.${minor}.${micro}` };
  }

  /** What QEMU returned. */
  async execute(command: string, words: Readonly<Record<string, unknown>>): Promise<unknown> {
    const answered = this.#answer(command);
    if (!this.#ended) this.#socket.write(`${JSON.stringify({ execute: command, arguments: words })}\n`);
    const answer = answerSchema.parse(await answered);
    if ('error' in answer) throw new Problem('refused', `QEMU refused ${command}: ${answer.error.desc}`);
    return answer.return;
  }

  async #answer(what: string): Promise<unknown> {
    const answer = Promise.withResolvers<unknown>();
    if (this.#ended) answer.reject(this.#ended);
    else this.#awaited.push(answer);
    // After an answer that did not come in time nobody knows which answer is whose.
    const late = this.#clock.after(boot.monitorAnswerMs, () => {
      this.#end(new Problem('timeout', `QEMU did not answer ${what} within ${boot.monitorAnswerMs} ms`));
    });
    try {
      return await answer.promise;
    } finally {
      late.cancel();
    }
  }

  #receive(piece: string): void {
    const lines = (this.#line + piece).split('\n');
    this.#line = lines.pop() ?? '';
    for (const line of lines) {
      const said = parse(line);
      if (said === null) continue;
      if (!('event' in said)) this.#awaited.shift()?.resolve(said);
    }
    if (this.#line.length > boot.lineBytesMax)
      this.#end(new Problem('protocol-error', 'QEMU sent a line without an end'));
  }

  #end(reason: Error): void {
    this.#ended ??= reason;
    this.#line = '';
    for (const answer of this.#awaited.splice(0)) answer.reject(this.#ended);
  }
}

function parse(line: string): object | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}

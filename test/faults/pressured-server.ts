/**
 * A process server as the product composes it (pool, TLS listener, spool), with a budget and a spool so small that a test can fill them, in a process of its
 * own: so its memory is its own, and killing it is killing it.
 *
 * The other half of this file is that process. It looks at itself more often than it reports, and reports the most it ever saw.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { endWithUs } from '../../scripts/demo/process.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { Budget } from '../../src/process-server/budget.ts';
import { SealPool } from '../../src/process-server/pool.ts';
import { ProcessServer } from '../../src/process-server/server.ts';
import { spoolLevels, worse, type SpoolLevel } from '../../src/process-server/spool-report.ts';
import { connect } from '../../src/transport/client.ts';
import { checkCredentials } from '../../src/transport/credentials.ts';
import { listen } from '../../src/transport/server.ts';

export interface ServerPlan {
  readonly credentials: { readonly keyPem: string; readonly certPem: string; readonly caPem: string };
  /** On this host; 0: any. */
  readonly port: number;
  readonly targetPort: number;
  readonly budget: { readonly totalBytes: number; readonly minBytes: number };
  readonly spool: { readonly directory: string; readonly bytesMax: number };
}

/** `…Peak`: the most there ever was at a time. */
export interface ServerFigures {
  readonly sessions: number;
  readonly grantedBytesPeak: number;
  readonly grantedLimitBytes: number;
  /** Of BATCHes that came and are neither durable nor spooled. */
  readonly inFlightBytesPeak: number;
  readonly spoolBytes: number;
  readonly spoolBytesPeak: number;
  readonly spoolLimitBytes: number;
  readonly worstLevel: SpoolLevel;
  /** Memory of the process before the first agent came, and the most it had. */
  readonly residentBytesIdle: number;
  readonly residentBytesPeak: number;
}

type Said = { readonly port: number } | { readonly figures: ServerFigures };

const self = fileURLToPath(import.meta.url);
const lookEveryMs = 50;
const reportEveryMs = 200;

export class PressuredServer {
  readonly port: number;
  readonly #child: ChildProcess;
  readonly #over: Promise<unknown>;
  #figures: ServerFigures | null = null;
  readonly #log: string[] = [];

  private constructor(child: ChildProcess, port: number, log: string[]) {
    this.port = port;
    this.#child = child;
    this.#log = log;
    this.#over = new Promise((resolve) => child.once('close', resolve));
    child.on('message', (said: Said) => {
      if ('figures' in said) this.#figures = said.figures;
    });
  }

  static async start(plan: ServerPlan): Promise<PressuredServer> {
    const child = fork(self, [], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'], execArgv: [] });
    endWithUs(child);
    const log: string[] = [];
    child.stderr?.on('data', (chunk: Buffer) => log.push(chunk.toString()));
    const port = await new Promise<number>((resolve, reject) => {
      child.once('message', (said: Said) => 'port' in said && resolve(said.port));
      child.once('exit', () => reject(new Error(`a process server ended before it ran: ${log.join('')}`)));
      child.send(plan);
    });
    return new PressuredServer(child, port, log);
  }

  /** As it told last; at most a fifth of a second ago, where there is time for that. */
  get figures(): ServerFigures {
    if (!this.#figures) throw new Error('it has told nothing yet');
    return this.#figures;
  }

  /** What it logged, by line. */
  get log(): readonly string[] {
    return this.#log.join('').split('\n');
  }

  /** SIGTERM ends it in order. Idempotent. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    this.#child.kill(signal);
    await this.#over;
  }
}

/** The most memory this process ever had. */
function residentBytesPeak(): number {
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? NaN) * 1024;
}

class Watch {
  readonly #server: ProcessServer;
  readonly #residentBytesIdle = residentBytesPeak();
  #granted = 0;
  #inFlight = 0;
  #spooled = 0;
  #level: SpoolLevel = spoolLevels[0];

  constructor(server: ProcessServer) {
    this.#server = server;
  }

  look(): void {
    const { grantedBytes, sessions } = this.#server;
    const { usedBytes, level } = this.#server.spoolReport();
    const inFlight = sessions.reduce((sum, { counters }) => sum + counters.inFlightBytes, 0);
    this.#granted = Math.max(this.#granted, grantedBytes);
    this.#inFlight = Math.max(this.#inFlight, inFlight);
    this.#spooled = Math.max(this.#spooled, usedBytes);
    this.#level = worse(this.#level, level);
  }

  get figures(): ServerFigures {
    const { usedBytes, limitBytes } = this.#server.spoolReport();
    return {
      sessions: this.#server.sessions.filter(({ phase }) => phase === 'open').length,
      grantedBytesPeak: this.#granted,
      grantedLimitBytes: this.#server.windowLimitBytes,
      inFlightBytesPeak: this.#inFlight,
      spoolBytes: usedBytes,
      spoolBytesPeak: this.#spooled,
      spoolLimitBytes: limitBytes,
      worstLevel: this.#level,
      residentBytesIdle: this.#residentBytesIdle,
      residentBytesPeak: residentBytesPeak(),
    };
  }
}

async function main(plan: ServerPlan): Promise<void> {
  const host = '127.0.0.1';
  const credentials = checkCredentials(plan.credentials, clock.wallMs());
  const logger = createLogger({ level: 'info', clock });
  const sealer = new SealPool({ threads: 2 });
  const server = new ProcessServer({
    connectTarget: (_machine, signal) =>
      connect({ host, port: plan.targetPort, credentials, expectRole: 'target', clock, signal }),
    budget: new Budget(plan.budget),
    spool: { ...plan.spool, files },
    ...{ sealer, clock, random, logger, version: 'test' },
  });
  const listener = await listen({
    ...{ host, port: plan.port, credentials, accept: ['agent'], clock },
    onConnection: (connection) => server.accept(connection),
    onRefused: (refusal) => logger.warn({ ...refusal }, 'a connection was refused'),
  });
  const say = (said: Said): void => void process.send?.(said);
  const watch = new Watch(server);
  clock.every(lookEveryMs, () => watch.look());
  clock.every(reportEveryMs, () => say({ figures: watch.figures }));
  say({ port: listener.port });
  process.once('SIGTERM', () => {
    server.close();
    void Promise.all([listener.close(), server.settled(), sealer.close()]).then(() => process.exit(0));
  });
}

if (process.argv[1] === self) process.once('message', (plan: ServerPlan) => void main(plan));

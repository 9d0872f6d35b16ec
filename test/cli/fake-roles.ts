/** A command line with nothing real behind it: roles that record what they were asked, streams that keep what was printed. */
import { Writable } from 'node:stream';
import type { CliContext } from '../../src/cli/context.ts';
import { runCommandLine } from '../../src/cli/program.ts';
import type { Roles, Running } from '../../src/cli/roles.ts';
import { type Clock, systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';

/** Every role refuses; a test replaces what it needs. */
function refusingRoles(): Roles {
  const refuse = async (): Promise<never> => {
    throw new Problem('refused', 'not in this test', { remedy: 'replace the role' });
  };
  return {
    startUp: refuse,
    startControl: refuse,
    startTarget: refuse,
    startProcessServer: refuse,
    startShard: refuse,
    startAgent: refuse,
    serveNbd: refuse,
    exportPoint: refuse,
    verify: refuse,
    pinPoint: refuse,
    releaseMachine: refuse,
    listPoints: refuse,
    keyExport: refuse,
    testFailover: refuse,
    bootTestFailover: refuse,
    unplannedFailover: refuse,
    cancelFailover: refuse,
    commitFailover: refuse,
    cleanUpFailovers: refuse,
    listFailovers: refuse,
    serveFailover: refuse,
    createToken: refuse,
    enroll: refuse,
    protect: refuse,
    pause: refuse,
    unprotect: refuse,
    resync: refuse,
    move: refuse,
    processServers: refuse,
    limitProcessServer: refuse,
    status: refuse,
  };
}

function sink(): { stream: Writable; text: () => string } {
  let text = '';
  const stream = new Writable({
    decodeStrings: false,
    write(chunk, _encoding, done) {
      text += String(chunk);
      done();
    },
  });
  return { stream, text: () => text };
}

export interface Setting {
  readonly roles?: Partial<Roles>;
  readonly environment?: Readonly<Record<string, string>>;
  readonly files?: Readonly<Record<string, string>>;
  readonly terminal?: boolean;
  readonly size?: { readonly columns: number; readonly rows: number };
  /** With a terminal; default: as it is one. */
  readonly colour?: boolean;
  /** What the operator types; left out: nobody is there. */
  readonly typed?: string;
  readonly clock?: Clock;
}

export interface CommandLine {
  readonly context: CliContext;
  /** Runs one command line; resolves with the exit code. */
  run(...words: string[]): Promise<number>;
  /** As if SIGTERM came. @returns whether anybody listened. */
  signal(): boolean;
  stdout(): string;
  stderr(): string;
}

export function commandLine(setting: Setting = {}): CommandLine {
  const out = sink();
  const err = sink();
  const listeners = new Set<() => void>();
  const isTerminal = setting.terminal ?? false;
  const context: CliContext = {
    roles: { ...refusingRoles(), ...setting.roles },
    version: '1.2.3',
    terminal: {
      stdout: out.stream,
      stderr: err.stream,
      stdoutIsTerminal: isTerminal,
      stderrIsTerminal: isTerminal,
      colour: setting.colour ?? isTerminal,
      size: () => setting.size,
    },
    environment: setting.environment ?? {},
    clock: setting.clock ?? systemClock,
    async readText(file) {
      const text = setting.files?.[file];
      if (text === undefined) throw new Problem('not-found', `${file} does not exist`);
      return text;
    },
    ask: () => Promise.resolve(setting.typed ?? null),
    onSignal(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    exitWith: () => undefined,
  };
  return {
    context,
    run: (...words) => runCommandLine(words, context),
    signal() {
      for (const listener of listeners) listener();
      return listeners.size > 0;
    },
    stdout: out.text,
    stderr: err.text,
  };
}

export interface FakeRunning extends Running {
  readonly closes: () => number;
  fail(error: Error): void;
}

/** A role that runs until closed; `close` is what happens then. */
export function fakeRunning(close: () => Promise<void> = async () => undefined): FakeRunning {
  const ended = Promise.withResolvers<undefined>();
  let closes = 0;
  return {
    reachable: [{ what: 'agents', where: '127.0.0.1:9443' }],
    ended: ended.promise,
    async close() {
      closes += 1;
      await close();
      ended.resolve(undefined);
    },
    closes: () => closes,
    fail: (error) => ended.reject(error),
  };
}

/**
 * The log: one JSON object per line on stderr (stdout belongs to data). Every room takes a `Logger`; only this file knows pino.
 *
 * Invariants:
 *  1. No secret is ever written. Values under a secret's name (`…key`, `…token`, `…secret`, …) and texts that look like one
 *     (registration keys, bearer tokens, PEM private keys) are replaced before pino sees them, at any depth, in child
 *     fields, messages and errors alike. pino's own redaction knows only fixed paths, so it can not promise this.
 *  2. Bytes are never written, only their number: a payload or a key in a buffer can not leak by being logged.
 *  3. A log line costs bounded work: depth, items and text are cut.
 */
import { pino, type Logger as PinoLogger } from 'pino';
import type { Clock } from '../kit/clock.ts';
import { isProblem } from '../kit/problem.ts';
import { limits } from '../limits.ts';

export const logLevels = ['debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
  /** A logger that adds `fields` to every line. */
  child(fields: LogFields): Logger;
}

export interface LogSink {
  /** One whole line, newline included. */
  write(line: string): void;
}

const redacted = '[redacted]';
const secretName = /(?:key|keys|token|secret|password|passphrase|authorization|cookie|pem)$/i;
const secretText = [
  /tm[ko]1\.[\w-]+(?:\.[0-9a-f]*)?/gi,
  /Bearer\s+[\w.~+/=-]+/gi,
  /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g,
];
const { depthMax, itemsMax, textMax } = limits.observe.logLine;

/** A text without secrets, cut to the bound. */
function cleanText(text: string): string {
  let clean = text.length > textMax ? `${text.slice(0, textMax)}…` : text;
  for (const pattern of secretText) clean = clean.replace(pattern, redacted);
  return clean;
}

function cleanError(error: Error, depth: number): unknown {
  return {
    ...(isProblem(error) ? { code: error.code, remedy: error.remedy } : { stack: cleanText(error.stack ?? '') }),
    message: cleanText(error.message),
    ...(error.cause === undefined ? {} : { cause: clean(error.cause, depth + 1) }),
  };
}

/** Invariants 1–3 for any value. */
function clean(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return cleanText(value);
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object' || value === null) return typeof value === 'function' ? '[function]' : value;
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`;
  if (depth >= depthMax) return '[…]';
  if (value instanceof Error) return cleanError(value, depth);
  if (Array.isArray(value)) return value.slice(0, itemsMax).map((item) => clean(item, depth + 1));
  const out: Record<string, unknown> = {};
  for (const [name, item] of Object.entries(value).slice(0, itemsMax)) {
    const hide = secretName.test(name) && item !== null && item !== undefined && typeof item !== 'boolean';
    out[name] = hide ? redacted : clean(item, depth + 1);
  }
  return out;
}

function cleanFields(fields: LogFields): Record<string, unknown> {
  return clean(fields) as Record<string, unknown>;
}

function wrap(inner: PinoLogger): Logger {
  const line =
    (level: 'debug' | 'info' | 'warn' | 'error') =>
    (fields: LogFields, message: string): void => {
      if (inner.isLevelEnabled(level)) inner[level](cleanFields(fields), cleanText(message));
    };
  return {
    debug: line('debug'),
    info: line('info'),
    warn: line('warn'),
    error: line('error'),
    child: (fields) => wrap(inner.child(cleanFields(fields))),
  };
}

/** @param options.sink where lines go; stderr, synchronously, unless given (a process that dies has said why). */
export function createLogger(options: { level: LogLevel; clock: Clock; fields?: LogFields; sink?: LogSink }): Logger {
  const settings = {
    level: options.level,
    base: options.fields === undefined ? null : cleanFields(options.fields),
    timestamp: () => `,"time":${Math.round(options.clock.wallMs())}`,
    formatters: { level: (label: string) => ({ level: label }) },
    messageKey: 'message',
  };
  return wrap(pino(settings, options.sink ?? pino.destination({ dest: 2, sync: true })));
}

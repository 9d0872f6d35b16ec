/**
 * What the server answers in the handshake, decided without I/O: option in, replies and outcome out.
 *
 * Invariants:
 *  1. `base:allocation` holds only for the export it was asked for, and only after structured replies were agreed on; a failed
 *     or empty SET_META_CONTEXT takes an earlier one back.
 *  2. A client that does not speak fixed newstyle gets EXPORT_NAME and nothing else.
 *  3. Where TLS is required nothing is told or agreed on in the clear: before it, STARTTLS and ABORT alone are answered with more than that.
 *  4. At most `optionsMax` options are answered, so a client that does not read can not pile replies up.
 */
import { limits } from '../limits.ts';
import type { Backend } from './backend.ts';
import {
  allocationContext,
  allocationContextId,
  handshakeFlag,
  infoKind,
  option,
  optionReply,
  transmissionFlag,
  greetingMagic,
  optionMagic,
  wireBytes,
} from './constants.ts';
import {
  decodeInfoData,
  decodeMetaData,
  decodeName,
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeMetaContext,
  encodeNameInfo,
  encodeOptionError,
  encodeOptionReply,
  encodeServerReply,
  type HandshakeEvent,
} from './options.ts';

/** The disks a server offers, looked up when a client asks. */
export interface Exports {
  names(): readonly string[];
  /** The empty name means the default export. */
  find(name: string): Backend | undefined;
}

/** What both sides hold to in transmission. */
export interface Agreement {
  readonly exportName: string;
  readonly backend: Backend;
  readonly structured: boolean;
  readonly allocation: boolean;
}

type Outcome =
  | { readonly kind: 'go-on'; readonly replies: readonly Buffer[] }
  /** After the replies TLS begins; the next event comes through it. */
  | { readonly kind: 'start-tls'; readonly replies: readonly Buffer[] }
  | { readonly kind: 'agreed'; readonly replies: readonly Buffer[]; readonly agreement: Agreement }
  | { readonly kind: 'end'; readonly replies: readonly Buffer[]; readonly reason: string };

/** The server's first bytes. */
export function encodeGreeting(): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(greetingMagic, 0);
  bytes.writeBigUInt64BE(optionMagic, 8);
  bytes.writeUInt16BE(handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes, 16);
  return bytes;
}

function transmissionFlagsOf(backend: Backend, structured: boolean): number {
  const { hasFlags, readOnly, sendFlush, sendFua, sendTrim, sendWriteZeroes, sendDf, canMultiConnection } =
    transmissionFlag;
  let flags = hasFlags | sendFlush | sendFua;
  flags |= backend.readOnly ? readOnly : sendTrim | sendWriteZeroes;
  // Each read is answered with one chunk, so "do not fragment" is kept without effort.
  if (structured) flags |= sendDf;
  if (backend.multiConnection) flags |= canMultiConnection;
  return flags;
}

export class Negotiation {
  readonly #exports: Exports;
  #tls: 'off' | 'required' | 'on';
  #clientFlags = 0;
  #structured = false;
  /** The export `base:allocation` was agreed on for. */
  #allocationFor: string | undefined;
  #events = 0;

  constructor(exports: Exports, tls: 'off' | 'required' = 'off') {
    this.#exports = exports;
    this.#tls = tls;
  }

  answer(event: HandshakeEvent): Outcome {
    this.#events += 1;
    if (this.#events > limits.nbd.optionsMax) return end('too many options');
    switch (event.kind) {
      case 'malformed':
        return end(event.reason);
      case 'client-flags': {
        this.#clientFlags = event.flags;
        const known = handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes;
        return (event.flags & ~known) === 0 ? goOn() : end(`unknown client flags ${event.flags}`);
      }
      case 'oversized':
        if (event.option === option.exportName) return end('an export name is too long');
        if (this.#tls === 'required') return tlsFirst(event.option);
        return goOn(encodeOptionError(event.option, optionReply.tooBig, `at most ${limits.nbd.optionBytesMax} bytes`));
      case 'option':
        return this.#answerOption(event.option, event.data);
    }
  }

  #answerOption(code: number, data: Buffer): Outcome {
    if (code === option.exportName) {
      // Its answer has no room for an error.
      return this.#tls === 'required' ? end('the client asked for an export without TLS') : this.#exportName(data);
    }
    if ((this.#clientFlags & handshakeFlag.fixedNewstyle) === 0) return end('the client does not speak fixed newstyle');
    if (this.#tls === 'required' && code !== option.abort && code !== option.startTls) return tlsFirst(code);
    switch (code) {
      case option.abort:
        return { kind: 'end', replies: [encodeOptionReply(code, optionReply.ack)], reason: 'the client gave up' };
      case option.list:
        if (data.byteLength > 0) return invalid(code, 'LIST takes no data');
        return goOn(...this.#exports.names().map(encodeServerReply), encodeOptionReply(code, optionReply.ack));
      case option.structuredReply:
        if (data.byteLength > 0) return invalid(code, 'STRUCTURED_REPLY takes no data');
        this.#structured = true;
        return goOn(encodeOptionReply(code, optionReply.ack));
      case option.listMetaContext:
      case option.setMetaContext:
        return this.#metaContext(code, data);
      case option.info:
      case option.go:
        return this.#infoOrGo(code, data);
      case option.startTls:
        return this.#startTls(code, data);
      default:
        return goOn(encodeOptionError(code, optionReply.unsupported, `option ${code} is not known here`));
    }
  }

  #startTls(code: number, data: Buffer): Outcome {
    if (this.#tls === 'off')
      return goOn(encodeOptionError(code, optionReply.unsupported, 'no TLS here: local clients only'));
    if (this.#tls === 'on') return invalid(code, 'TLS is on');
    if (data.byteLength > 0) return invalid(code, 'STARTTLS takes no data');
    this.#tls = 'on';
    return { kind: 'start-tls', replies: [encodeOptionReply(code, optionReply.ack)] };
  }

  #infoOrGo(code: number, data: Buffer): Outcome {
    const asked = decodeInfoData(data);
    if (!asked) return invalid(code, 'the lengths do not add up');
    const backend = this.#exports.find(asked.name);
    if (!backend) return unknownExport(code, asked.name);
    const replies = [encodeExportInfo(code, backend.size, transmissionFlagsOf(backend, this.#structured))];
    if (asked.kinds.includes(infoKind.name)) replies.push(encodeNameInfo(code, asked.name));
    replies.push(encodeBlockSizeInfo(code, requestSizes(backend)), encodeOptionReply(code, optionReply.ack));
    return code === option.info ? goOn(...replies) : this.#agreed(asked.name, backend, replies);
  }

  /** The old way in: no error can be told, so an unknown name ends the connection. */
  #exportName(data: Buffer): Outcome {
    const name = decodeName(data);
    const backend = name === undefined ? undefined : this.#exports.find(name);
    if (name === undefined || !backend) return end('an unknown export was asked for');
    const padding = (this.#clientFlags & handshakeFlag.noZeroes) === 0 ? wireBytes.exportNamePadding : 0;
    const reply = Buffer.alloc(10 + padding);
    reply.writeBigUInt64BE(BigInt(backend.size), 0);
    reply.writeUInt16BE(transmissionFlagsOf(backend, this.#structured), 8);
    return this.#agreed(name, backend, [reply]);
  }

  #metaContext(code: number, data: Buffer): Outcome {
    const set = code === option.setMetaContext;
    if (set) this.#allocationFor = undefined;
    const asked = decodeMetaData(data);
    if (!asked) return invalid(code, 'the lengths do not add up');
    if (set && !this.#structured) return invalid(code, 'structured replies come first');
    if (!this.#exports.find(asked.name)) return unknownExport(code, asked.name);
    const { queries } = asked;
    const listed = !set && (queries.length === 0 || queries.includes('base:'));
    if (!listed && !queries.includes(allocationContext)) return goOn(encodeOptionReply(code, optionReply.ack));
    if (set) this.#allocationFor = asked.name;
    const id = set ? allocationContextId : 0;
    return goOn(encodeMetaContext(code, id, allocationContext), encodeOptionReply(code, optionReply.ack));
  }

  #agreed(exportName: string, backend: Backend, replies: readonly Buffer[]): Outcome {
    const allocation = this.#structured && this.#allocationFor === exportName;
    return { kind: 'agreed', replies, agreement: { exportName, backend, structured: this.#structured, allocation } };
  }
}

/** Any byte range is served; the preferred size must be a power of two from 512 bytes up. */
function requestSizes(backend: Backend): { min: number; preferred: number; max: number } {
  const max = limits.nbd.requestBytesMax;
  const exponent = Math.ceil(Math.log2(Math.max(backend.preferredBytes, limits.disk.sectorBytes)));
  return { min: 1, preferred: Math.min(2 ** exponent, max), max };
}

function goOn(...replies: readonly Buffer[]): Outcome {
  return { kind: 'go-on', replies };
}

function end(reason: string): Outcome {
  return { kind: 'end', replies: [], reason };
}

function invalid(code: number, message: string): Outcome {
  return goOn(encodeOptionError(code, optionReply.invalid, message));
}

function tlsFirst(code: number): Outcome {
  return goOn(encodeOptionError(code, optionReply.tlsRequired, 'TLS comes first: this export asks for a certificate'));
}

function unknownExport(code: number, name: string): Outcome {
  return goOn(encodeOptionError(code, optionReply.unknownExport, `no export '${name}' here`));
}

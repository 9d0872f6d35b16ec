/**
 * The numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md), fixed newstyle. Everything on the wire is big-endian.
 * Only numbers this program speaks or must recognise stand here.
 */

/** "NBDMAGIC", first bytes of the server. */
export const greetingMagic = 0x4e42444d41474943n;
/** "IHAVEOPT", second bytes of the server and first of every option. */
export const optionMagic = 0x49484156454f5054n;
export const optionReplyMagic = 0x0003e889045565a9n;
export const requestMagic = 0x25609513;
export const simpleReplyMagic = 0x67446698;
export const structuredReplyMagic = 0x668e33ef;

/** The same two bits are the server's handshake flags and the client's answer. */
export const handshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

export const optionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: 0x8000_0001,
  invalid: 0x8000_0003,
  tlsRequired: 0x8000_0005,
  unknownExport: 0x8000_0006,
  tooBig: 0x8000_0009,
} as const;

export const infoKind = { export: 0, name: 1, blockSize: 3 } as const;

export const transmissionFlag = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  sendTrim: 32,
  sendWriteZeroes: 64,
  sendDf: 128,
  canMultiConnection: 256,
} as const;

export const command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const commandFlag = { fua: 1, noHole: 2, dontFragment: 4, requireOne: 8 } as const;

export const chunkFlag = { done: 1 } as const;

export const chunkKind = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;
/** A structured chunk of a kind with this bit reports an error. */
export const chunkErrorBit = 0x8000;

/** Errors as they travel; names as in the protocol document and in `Problem.code`. */
export const nbdError = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type NbdErrorName = keyof typeof nbdError;

/** The one metadata context: which ranges are allocated, which read as zeros. */
export const allocationContext = 'base:allocation';
export const allocationContextId = 1;
export const allocationState = { hole: 1, zero: 2 } as const;

/** Bytes of the fixed parts. */
export const wireBytes = {
  clientFlags: 4,
  optionHeader: 16,
  optionReplyHeader: 20,
  request: 28,
  simpleReply: 16,
  chunkHeader: 20,
  /** Zeros after the answer to EXPORT_NAME, unless both sides said "no zeroes". */
  exportNamePadding: 124,
  /** The longest string the protocol allows. */
  stringMax: 4096,
} as const;

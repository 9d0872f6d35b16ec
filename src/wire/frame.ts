/**
 * The frame: 8 bytes of header, then the body (PROTOCOL.md, "Layers, from the bottom"). Pure: bytes in, value or Problem
 * `protocol-error` out. Nothing is allocated for a body before its length was checked.
 */
import { limits } from '../limits.ts';
import { protocolError } from './codes.ts';

export const frameType = {
  hello: 1,
  welcome: 2,
  openDisk: 3,
  opened: 4,
  cycle: 5,
  batch: 6,
  sealed: 7,
  durable: 8,
  credit: 9,
  point: 10,
  committed: 11,
  rejected: 12,
  leaves: 13,
  checksums: 14,
  repair: 15,
  error: 16,
  ping: 17,
  pong: 18,
  ask: 19,
  different: 20,
  gap: 21,
} as const;

export type FrameType = (typeof frameType)[keyof typeof frameType];

export const frameHeaderBytes = 8;
/**
 * Bytes a sender may leave free right before a frame, so that what a connection puts before it stands there and both are one write of
 * memory that lies together: the largest header of RFC 6455 §5.2, 2 bytes, 8 of length, 4 of mask.
 */
export const frameRoomBytes = 14;
/** The disk field of a message that is not about one disk. */
export const noDisk = 0xffff;

const knownTypes = new Set<number>(Object.values(frameType));

export interface Frame {
  readonly type: FrameType;
  readonly disk: number;
  /** A view into the received message. */
  readonly body: Uint8Array;
}

function isFrameType(value: number): value is FrameType {
  return knownTypes.has(value);
}

/** Fills the header at the start of `frame`, whose body already lies behind it. */
export function writeFrameHeader(frame: Uint8Array, type: FrameType, disk: number): void {
  const view = new DataView(frame.buffer, frame.byteOffset, frameHeaderBytes);
  view.setUint8(0, type);
  view.setUint8(1, 0);
  view.setUint16(2, disk, true);
  view.setUint32(4, frame.byteLength - frameHeaderBytes, true);
}

/** A new frame around a copy of `body`. */
export function encodeFrame(type: FrameType, disk: number, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const frame = new Uint8Array(frameHeaderBytes + body.byteLength);
  frame.set(body, frameHeaderBytes);
  writeFrameHeader(frame, type, disk);
  return frame;
}

/** @throws Problem `protocol-error`. */
export function decodeFrame(message: Uint8Array): Frame {
  if (message.byteLength > limits.wire.frameBytesMax) {
    throw protocolError(`a frame of ${message.byteLength} bytes is longer than ${limits.wire.frameBytesMax}`);
  }
  if (message.byteLength < frameHeaderBytes)
    throw protocolError(`a frame of ${message.byteLength} bytes has no header`);
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const type = view.getUint8(0);
  if (!isFrameType(type)) throw protocolError(`unknown frame type ${type}`);
  if (view.getUint8(1) !== 0) throw protocolError(`unknown frame flags ${view.getUint8(1)}`);
  const length = view.getUint32(4, true);
  if (length !== message.byteLength - frameHeaderBytes) {
    throw protocolError(`a frame says ${length} bytes and has ${message.byteLength - frameHeaderBytes}`);
  }
  return { type, disk: view.getUint16(2, true), body: message.subarray(frameHeaderBytes) };
}

/** u64 as a number. @throws Problem `protocol-error` above 2⁵³ − 1. */
export function readU64(view: DataView, offset: number): number {
  const value = view.getUint32(offset + 4, true) * 2 ** 32 + view.getUint32(offset, true);
  if (!Number.isSafeInteger(value)) throw protocolError('a 64-bit number is above 2^53 - 1');
  return value;
}

export function writeU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true);
  view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

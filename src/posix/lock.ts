/**
 * A lock on a file, block device or directory that dies with its holder. It is two fences:
 *
 *  1. An abstract Unix socket named after what is locked. Who comes second learns who is first, because the holder answers every
 *     connection with its identity. It binds processes of one network namespace.
 *  2. flock(2) on what is locked. It says no name, but binds every process that reaches the same file through one kernel, so also
 *     containers that share a volume. Where koffi or the file system has none, only the first fence stands.
 *
 * The socket is taken first and given back last. No file is left behind, nothing goes stale after SIGKILL. flock does not disturb the
 * byte-range locks of QEMU.
 *
 * Limits: machines that share a network file system need another arbiter (leases and epochs are one, C9). A replaced file (another inode)
 * is another thing.
 */
import { closeSync, constants, openSync } from 'node:fs';
import * as net from 'node:net';
import { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from './files.ts';
import { lockSync } from './syscalls.ts';

const holderSchema = z.object({
  pid: z.number().int(),
  role: z.string(),
  since: z.string(),
  says: z.unknown().optional(),
});

/** Who holds a lock; told to whoever asks. */
export interface LockIdentity {
  readonly pid: number;
  /** "agent", "target", … */
  readonly role: string;
  /** ISO 8601. */
  readonly since: string;
}

/** As it was told; what it says besides is for those who know its role, and was not checked. */
export type LockHolder = LockIdentity & { readonly says?: unknown };

export interface Lock {
  /** Idempotent. */
  release(): Promise<void>;
}

/** How often a name that was taken and then free again is tried. */
const attemptsMax = 5;
/** Between attempts at the second fence. */
const flockRetryMs = 20;

async function nameOf(files: Files, path: string): Promise<string> {
  const { kind, device, inode } = await files.facts(path);
  return `\0tidemark-lock-${kind === 'block-device' ? 'b' : 'f'}-${device.toString(16)}-${inode.toString(16)}`;
}

/**
 * Locks `path`, which must exist. @param says what is told besides, as of when it is asked for; with the identity at most `lockAnswerBytesMax` as JSON.
 * @throws Problem `locked`, naming the holder.
 */
export async function acquireLock(
  files: Files,
  clock: Clock,
  path: string,
  identity: LockIdentity,
  says: () => unknown = () => undefined,
): Promise<Lock> {
  const name = await nameOf(files, path);
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const lock = await tryListen(name, () => ({ ...identity, says: says() }));
    if (lock) return await fenced(clock, path, lock);
    const holder = await askHolder(clock, name);
    if (holder !== 'gone') throw lockedBy(path, holder);
  }
  throw lockedBy(path, null);
}

/** `socket` and the second fence; gives the socket back when that one refuses. */
async function fenced(clock: Clock, path: string, socket: Lock): Promise<Lock> {
  try {
    const fd = await takeFlock(clock, path);
    let open = true;
    return {
      release: () => {
        if (open) closeSync(fd);
        open = false;
        return socket.release();
      },
    };
  } catch (error) {
    await socket.release();
    throw error;
  }
}

/** A descriptor that holds the second fence, or one that holds nothing where there is no such fence. */
async function takeFlock(clock: Clock, path: string): Promise<number> {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    for (let attempt = 1; lockSync(fd) === 'refused'; attempt += 1) {
      if (attempt === attemptsMax) {
        throw new Problem('locked', `${path} is in use by a process in another network namespace or host container`, {
          remedy: 'stop the tidemark in the other container that uses it first',
        });
      }
      // A holder that is just being killed loses its socket a moment before the rest of its descriptors.
      await clock.sleep(flockRetryMs);
    }
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Who holds `path` now; `null`: nobody, or one who does not answer. */
export async function lockHolder(files: Files, clock: Clock, path: string): Promise<LockHolder | null> {
  const holder = await askHolder(clock, await nameOf(files, path));
  return holder === 'gone' ? null : holder;
}

function lockedBy(path: string, holder: LockIdentity | null): Problem {
  const who = holder
    ? `${holder.role}, process ${holder.pid}, since ${holder.since}`
    : 'a process that does not answer';
  return new Problem('locked', `${path} is in use by ${who}`, {
    remedy: holder ? `stop process ${holder.pid} first, or use another ${path}` : 'stop the process that uses it first',
  });
}

/** Listens under `name` and answers with what `holder` says then; `null` when the name is taken. */
function tryListen(name: string, holder: () => LockHolder): Promise<Lock | null> {
  const open = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    open.add(socket);
    socket.unref();
    socket.on('error', () => socket.destroy());
    socket.on('close', () => open.delete(socket));
    socket.resume();
    socket.end(JSON.stringify(holder()));
  });
  server.maxConnections = 16;
  server.unref();
  let released: Promise<void> | null = null;
  const release = (): Promise<void> => {
    released ??= new Promise((resolve) => {
      for (const socket of open) socket.destroy();
      server.close(() => {
        resolve();
      });
    });
    return released;
  };
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      if (systemCode(error) === 'EADDRINUSE') resolve(null);
      else reject(error);
    });
    server.listen({ path: name, exclusive: true }, () => {
      server.on('error', () => undefined);
      resolve({ release });
    });
  });
}

/** What the holder says; `null` when it says nothing sensible in time, `gone` when there is none. */
function askHolder(clock: Clock, name: string): Promise<LockHolder | null | 'gone'> {
  return new Promise((resolve) => {
    const socket = net.connect({ path: name });
    let heard = '';
    const end = (answer: LockHolder | null | 'gone'): void => {
      deadline.cancel();
      socket.destroy();
      resolve(answer);
    };
    const deadline = clock.after(limits.posix.lockAnswerMs, () => {
      end(null);
    });
    socket.setEncoding('utf8');
    socket.on('data', (piece) => {
      heard += String(piece);
      if (heard.length > limits.posix.lockAnswerBytesMax) end(null);
    });
    socket.on('error', (error) => {
      end(systemCode(error) === 'ECONNREFUSED' || systemCode(error) === 'ENOENT' ? 'gone' : null);
    });
    socket.on('end', () => {
      end(parseHolder(heard));
    });
  });
}

function parseHolder(text: string): LockHolder | null {
  try {
    const parsed = holderSchema.safeParse(JSON.parse(text));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

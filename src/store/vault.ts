/**
 * The vault key: the one secret at the target from which every stored byte can be opened (DESIGN §4, FORMAT.md Keys). Made on
 * first start, kept in `vault.key` (0600), written out once more as the recovery file by the operator.
 *
 * Invariants:
 *  1. A vault key is never made where a vault is known already (`expected`): lost keys are reported, not replaced.
 *  2. The vault's id is derived from its key, so a file with one wrong digit is found when it is opened, not at the first restore.
 *  3. Key bytes never appear in a message, a cause or an inspected object: they live in a private field, and what `JSON.parse` says
 *     (it quotes its input) is not passed on.
 */
import { xchacha20poly1305 } from '@noble/ciphers/chacha.js';
import * as path from 'node:path';
import { digest } from '../kernels/hash.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem, systemCode } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import type { Files } from '../posix/files.ts';

export const vaultKeyFileName = 'vault.key';
const vaultStateFileName = 'vault.json';
const format = 1;
const keyBytes = 32;
const idBytes = 16;
const nonceBytes = 24;
const tagBytes = 16;
const fileBytesMax = 4096;
const keyFilePermissions = 0o600;
export const wrappedKeyBytes = nonceBytes + keyBytes + tagBytes;

export type KeyPurpose = 'disk' | 'leaf';

/** Keys of one version of a disk, 32 bytes each. */
export interface DiskKeys {
  readonly diskKey: Uint8Array;
  readonly leafKey: Uint8Array;
}

/** The same, wrapped; hex, as `machine.json` keeps them. */
export interface WrappedDiskKeys {
  readonly version: number;
  readonly diskKey: string;
  readonly leafKey: string;
}

function vaultIdOf(key: Uint8Array): string {
  return Buffer.from(digest(Buffer.from('tidemark vault 1', 'ascii'), key).subarray(0, idBytes)).toString('hex');
}

function associatedData(diskId: Uint8Array, version: number, purpose: KeyPurpose): Uint8Array {
  invariant(diskId.byteLength === 16, 'a disk id has 16 bytes');
  invariant(Number.isInteger(version) && version >= 0 && version <= 0xffff, 'a key version fits 16 bits');
  const versionBytes = Buffer.alloc(2);
  versionBytes.writeUInt16LE(version);
  return Buffer.concat([Buffer.from('tidemark key 1', 'ascii'), diskId, versionBytes, Buffer.from(purpose, 'ascii')]);
}

export class Vault {
  /** 32 hex digits; public. */
  readonly id: string;
  readonly #key: Uint8Array;
  readonly #random: Random;

  private constructor(key: Uint8Array, random: Random) {
    this.#key = key;
    this.#random = random;
    this.id = vaultIdOf(key);
  }

  /**
   * Opens `vault.key` or a recovery file. `expected` is the id the data directory names; leave it out only where there is none.
   * @throws Problem `no-key` (missing, unreadable, another vault's), `bad-recovery-file` (a file that is not whole), `wrong-version`.
   */
  static async open(options: {
    readonly files: Files;
    readonly random: Random;
    readonly keyFile: string;
    readonly expected?: string | undefined;
  }): Promise<Vault> {
    const { files, random, keyFile, expected } = options;
    const vault = new Vault(parseKeyFile(keyFile, await readKeyFile(files, keyFile)), random);
    if (expected !== undefined && vault.id !== expected) {
      throw new Problem('no-key', `${keyFile} is the key of vault ${vault.id}, the data belongs to vault ${expected}`, {
        remedy: 'name the vault key or recovery file that was made with this data',
      });
    }
    return vault;
  }

  /** As `open`, but makes a new vault where there is no file and none is expected (first start). */
  static async openOrCreate(options: {
    readonly files: Files;
    readonly random: Random;
    readonly keyFile: string;
    readonly expected?: string | undefined;
  }): Promise<Vault> {
    const { files, random, keyFile, expected } = options;
    if (expected !== undefined || (await files.exists(keyFile))) return Vault.open(options);
    const vault = new Vault(new Uint8Array(random.bytes(keyBytes)), random);
    await files.replaceFile(keyFile, vault.#fileBytes('vault'), keyFilePermissions);
    return vault;
  }

  /**
   * Writes the recovery file, reads it back, and records the fact in `dataDirectory`. An existing file is replaced only if it
   * is a key of this same vault. @throws Problem `bad-argument` when it is anything else.
   */
  async exportRecovery(options: {
    readonly files: Files;
    readonly to: string;
    readonly dataDirectory: string;
    readonly wallMs: number;
  }): Promise<void> {
    const { files, to, dataDirectory, wallMs } = options;
    if ((await files.exists(to)) && !(await this.#isOurs(files, to))) {
      throw new Problem('bad-argument', `${to} exists and is not the recovery file of this vault`, {
        remedy: 'choose a path that does not exist yet',
      });
    }
    await files.replaceFile(to, this.#fileBytes('recovery'), keyFilePermissions);
    invariant(await this.#isOurs(files, to), 'the recovery file reads back as written');
    const state = { format, vault: this.id, recoveryWrittenAtMs: wallMs };
    await files.replaceFile(path.join(dataDirectory, vaultStateFileName), Buffer.from(`${JSON.stringify(state)}\n`));
  }

  /** Whether the recovery file of this vault was ever written; `status` nags until it was. */
  async recoveryWritten(files: Files, dataDirectory: string): Promise<boolean> {
    const file = path.join(dataDirectory, vaultStateFileName);
    if (!(await files.exists(file))) return false;
    const state = parseJson((await files.readWhole(file)).toString('utf8'));
    return state?.['vault'] === this.id && typeof state['recoveryWrittenAtMs'] === 'number';
  }

  /** Fresh keys for a new version of a disk. */
  newDiskKeys(): DiskKeys {
    const fresh = (): Uint8Array => new Uint8Array(this.#random.bytes(keyBytes));
    return { diskKey: fresh(), leafKey: fresh() };
  }

  /** nonce (24) ‖ ciphertext (48); bound to disk, version and purpose. */
  wrap(diskId: Uint8Array, version: number, purpose: KeyPurpose, key: Uint8Array): Uint8Array {
    invariant(key.byteLength === keyBytes, 'a key has 32 bytes');
    const nonce = this.#random.bytes(nonceBytes);
    const sealed = xchacha20poly1305(this.#key, nonce, associatedData(diskId, version, purpose)).encrypt(key);
    return Buffer.concat([nonce, sealed]);
  }

  /** @throws Problem `damaged`: not wrapped by this vault for this disk, version and purpose. */
  unwrap(diskId: Uint8Array, version: number, purpose: KeyPurpose, wrapped: Uint8Array): Uint8Array {
    const aad = associatedData(diskId, version, purpose);
    if (wrapped.byteLength === wrappedKeyBytes) {
      const nonce = wrapped.subarray(0, nonceBytes);
      try {
        return xchacha20poly1305(this.#key, nonce, aad).decrypt(wrapped.subarray(nonceBytes));
      } catch {
        // Said below, the same for every way of being wrong.
      }
    }
    const disk = Buffer.from(diskId).toString('hex');
    throw new Problem(
      'damaged',
      `the ${purpose} key of disk ${disk}, version ${version}, does not open with vault ${this.id}`,
      {
        remedy: 'restore machine.json from a copy of this data directory',
      },
    );
  }

  wrapDiskKeys(diskId: Uint8Array, version: number, keys: DiskKeys): WrappedDiskKeys {
    const hex = (purpose: KeyPurpose, key: Uint8Array): string =>
      Buffer.from(this.wrap(diskId, version, purpose, key)).toString('hex');
    return { version, diskKey: hex('disk', keys.diskKey), leafKey: hex('leaf', keys.leafKey) };
  }

  /** @throws Problem `damaged`. */
  unwrapDiskKeys(diskId: Uint8Array, wrapped: WrappedDiskKeys): DiskKeys {
    const open = (purpose: KeyPurpose, hex: string): Uint8Array =>
      this.unwrap(diskId, wrapped.version, purpose, Buffer.from(hex, 'hex'));
    return { diskKey: open('disk', wrapped.diskKey), leafKey: open('leaf', wrapped.leafKey) };
  }

  #fileBytes(kind: 'vault' | 'recovery'): Uint8Array {
    const key = Buffer.from(this.#key).toString('hex');
    return Buffer.from(`${JSON.stringify({ format, kind, vault: this.id, key })}\n`);
  }

  async #isOurs(files: Files, file: string): Promise<boolean> {
    try {
      return vaultIdOf(parseKeyFile(file, await readKeyFile(files, file))) === this.id;
    } catch {
      return false;
    }
  }
}

async function readKeyFile(files: Files, keyFile: string): Promise<string> {
  const remedy = 'name the recovery file written by `tidemark key export`, or restore vault.key';
  let size: number;
  try {
    size = (await files.facts(keyFile)).size;
    if (size <= fileBytesMax) return (await files.readWhole(keyFile)).toString('utf8');
  } catch (cause) {
    const missing = systemCode(cause) === 'ENOENT';
    throw new Problem('no-key', `the vault key ${keyFile} ${missing ? 'does not exist' : 'can not be read'}`, {
      remedy,
      cause,
    });
  }
  throw new Problem('bad-recovery-file', `${keyFile} has ${size} bytes and is no key file`, { remedy });
}

/** The object in `text`, or null. Says nothing about why not (invariant 3). */
function parseJson(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : null;
  } catch {
    return null;
  }
}

/** The key bytes. @throws Problem `bad-recovery-file`, `wrong-version`. */
function parseKeyFile(keyFile: string, text: string): Uint8Array {
  const refuse = (what: string): never => {
    throw new Problem('bad-recovery-file', `${keyFile} ${what}`, {
      remedy: 'use another copy of the recovery file, or vault.key of the target',
    });
  };
  const fields = parseJson(text) ?? refuse('is not a vault key or recovery file');
  if (typeof fields['format'] === 'number' && fields['format'] > format) {
    throw new Problem('wrong-version', `${keyFile} is of format ${fields['format']}, this program knows ${format}`, {
      remedy: 'use the version of the program that wrote it',
    });
  }
  const { kind, vault, key } = fields;
  if (fields['format'] !== format || (kind !== 'vault' && kind !== 'recovery')) {
    return refuse('is not a vault key or recovery file');
  }
  if (typeof vault !== 'string' || typeof key !== 'string' || !/^[0-9a-f]{64}$/.test(key)) {
    return refuse('is not whole: vault id or key is missing');
  }
  const bytes = new Uint8Array(Buffer.from(key, 'hex'));
  return vaultIdOf(bytes) === vault ? bytes : refuse('is damaged: key and vault id do not belong together');
}

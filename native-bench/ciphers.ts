/** Ciphers with a tag, all with the 72 bytes of additional data a record has. One nonce again and again: nothing sealed here is kept. */
import { gcm } from '@noble/ciphers/aes.js';
import { xchacha20poly1305 } from '@noble/ciphers/chacha.js';
import {
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  type CipherGCM,
  type CipherGCMTypes,
  type DecipherGCM,
  type KeyObject,
} from 'node:crypto';
import { systemRandom } from '../src/kit/random.ts';
import { copy, keep, type Contestant } from './contestant.ts';

const tagBytes = 16;
const aad = systemRandom.bytes(72);
const nonce = systemRandom.bytes(12);
const longNonce = systemRandom.bytes(24);
const authTagLength = tagBytes;
const kernel = 'cipher';
const provider = 'node:crypto';

type Coder = Pick<Contestant, 'there' | 'back'>;

/** Payload, then tag. */
function coder(encipher: () => CipherGCM, decipher: () => DecipherGCM): Coder {
  return {
    there(plain, slab) {
      const cipher = encipher();
      cipher.setAAD(aad);
      keep(cipher.update(plain), slab);
      cipher.final();
      slab.set(cipher.getAuthTag(), plain.byteLength);
      return plain.byteLength + tagBytes;
    },
    back(coded, plainBytes, slab) {
      const cipher = decipher();
      cipher.setAAD(aad);
      cipher.setAuthTag(coded.subarray(plainBytes));
      keep(cipher.update(coded.subarray(0, plainBytes)), slab);
      cipher.final();
    },
  };
}

function aes(name: CipherGCMTypes, variant: string, key: KeyObject | Buffer): Contestant {
  const encipher = (): CipherGCM => createCipheriv(name, key, nonce, { authTagLength });
  const decipher = (): DecipherGCM => createDecipheriv(name, key, nonce, { authTagLength });
  return { kernel, provider, variant, ...coder(encipher, decipher) };
}

function chaCha(key: KeyObject): Contestant {
  const encipher = (): CipherGCM => createCipheriv('chacha20-poly1305', key, nonce, { authTagLength });
  const decipher = (): DecipherGCM => createDecipheriv('chacha20-poly1305', key, nonce, { authTagLength });
  return { kernel, provider, variant: 'ChaCha20-Poly1305', ...coder(encipher, decipher) };
}

interface NobleCipher {
  encrypt(plain: Uint8Array): Uint8Array;
  decrypt(coded: Uint8Array): Uint8Array;
}

function noble(variant: string, make: () => NobleCipher): Contestant {
  return {
    kernel,
    provider: '@noble/ciphers',
    variant,
    there: (plain, slab) => copy(make().encrypt(plain), slab),
    back: (coded, _, slab) => void copy(make().decrypt(coded), slab),
  };
}

export function cipherContestants(): Contestant[] {
  const key = systemRandom.bytes(32);
  const [long, short] = [createSecretKey(key), createSecretKey(key.subarray(0, 16))];
  return [
    aes('aes-256-gcm', 'AES-256-GCM', long),
    aes('aes-256-gcm', 'AES-256-GCM, key as bytes', key),
    aes('aes-128-gcm', 'AES-128-GCM', short),
    chaCha(long),
    noble('AES-256-GCM', () => gcm(key, nonce, aad)),
    noble('XChaCha20-Poly1305', () => xchacha20poly1305(key, longNonce, aad)),
  ];
}

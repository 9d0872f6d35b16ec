/** Retention, fold and compaction work without keys (DESIGN §4): nothing they load could open a record, or a key. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';

const src = path.join(import.meta.dirname, '../../src');
const withKeys = ['store/vault.ts', 'kernels/cipher.ts', 'kernels/keys.ts', 'kernels/unseal.ts', 'kernels/seal.ts'];

/** What a file loads when it is run, directly or not; types are gone by then. */
function loadedBy(file: string, found = new Set<string>()): Set<string> {
  if (found.has(file)) return found;
  found.add(file);
  const text = readFileSync(path.join(src, file), 'utf8');
  for (const [, imported, from] of text.matchAll(/^import (type )?[^;]*?'(\.[^']*)';/gms))
    if (imported === undefined && from !== undefined) loadedBy(path.join(path.dirname(file), from), found);
  return found;
}

it('fold loads nothing that opens what is sealed', () => {
  const loaded = loadedBy('store/machine-fold.ts');
  expect(loaded).toContain('store/compact.ts');
  expect(loaded).toContain('kernels/hash.ts');
  expect([...loaded].filter((each) => withKeys.includes(each))).toEqual([]);
});

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { openLmdbState } from '../../src/control/state-lmdb.ts';
import { describeState } from './state-contract.ts';

describeState('LMDB', async () => {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-state-'));
  return { open: () => openLmdbState(directory), remove: () => rm(directory, { recursive: true, force: true }) };
});

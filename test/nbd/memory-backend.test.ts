import { backendContract } from './backend-contract.ts';
import { MemoryBackend } from './memory-backend.ts';

const end = (): Promise<void> => Promise.resolve();

backendContract('memory', (content) => Promise.resolve({ backend: new MemoryBackend(Buffer.from(content)), end }));
backendContract('memory, read-only', (content) =>
  Promise.resolve({ backend: new MemoryBackend(Buffer.from(content), { readOnly: true }), end }),
);

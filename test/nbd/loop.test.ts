/**
 * Client and server together are a backend again: whatever lies behind the server must be what the client sees, so the shared
 * suite runs through both. Once over a Unix socket, once over TCP.
 */
import type { Backend } from '../../src/nbd/backend.ts';
import type { NbdClient } from '../../src/nbd/client.ts';
import { backendContract } from './backend-contract.ts';
import { MemoryBackend } from './memory-backend.ts';
import { Place } from './serve.ts';

function throughClient(client: NbdClient): Backend {
  return {
    size: client.size,
    readOnly: client.readOnly,
    multiConnection: true,
    preferredBytes: 4096,
    read: async (into, offset) => {
      into.set(await client.read(offset, into.byteLength));
    },
    write: (data, offset, fua) => client.write(data, offset, { fua }),
    flush: () => client.flush(),
    zero: (offset, length, fua, mayUnmap) =>
      mayUnmap && offset % 2 === 0
        ? client.trim(offset, length, { fua })
        : client.zero(offset, length, { fua, noHole: !mayUnmap }),
    extents: (offset, length) => client.blockStatus(offset, length),
  };
}

for (const listen of [undefined, { host: '127.0.0.1', port: 0 }]) {
  for (const readOnly of [false, true]) {
    backendContract(`${listen ? 'TCP' : 'Unix socket'}${readOnly ? ', read-only' : ''}`, async (content) => {
      const place = await Place.make();
      const memory = new MemoryBackend(Buffer.from(content), { readOnly });
      const server = await place.serve(memory, listen ? { listen } : {});
      const client = await place.client(server);
      return { backend: throughClient(client), end: () => place.end() };
    });
  }
}

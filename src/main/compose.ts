/** Composition: the real parts behind the command line's `Roles`. */
import type { Roles } from '../cli/roles.ts';
import { systemClock } from '../kit/clock.ts';
import { systemRandom } from '../kit/random.ts';
import { createLogger } from '../observe/logger.ts';
import { posixFiles } from '../posix/files.ts';
import { startAgent } from './agent.ts';
import { startControl } from './control.ts';
import { createToken, enroll, protect, resync, status } from './operator.ts';
import type { Parts } from './parts.ts';
import { startProcessServer } from './process-server.ts';
import { exportPoint, keyExport, listPoints, servePoint, verify } from './recovery.ts';
import { startTarget } from './target.ts';
import { startUp } from './up.ts';

export function composeRoles(version: string): Roles {
  const parts: Parts = {
    files: posixFiles,
    clock: systemClock,
    random: systemRandom,
    version,
    loggerOf: ({ logLevel }, role) => createLogger({ level: logLevel, clock: systemClock, fields: { role } }),
  };
  return {
    startUp: (config) => startUp(parts, config),
    startControl: (config) => startControl(parts, config),
    startTarget: (config) => startTarget(parts, config),
    startProcessServer: (config) => startProcessServer(parts, config),
    startAgent: (config) => startAgent(parts, config),
    serveNbd: (request) => servePoint(parts, request),
    exportPoint: (request, progress, signal) => exportPoint(parts, request, progress, signal),
    verify: (request, progress, signal) => verify(parts, request, progress, signal),
    listPoints: (request) => listPoints(parts, request),
    keyExport: (request) => keyExport(parts, request),
    createToken: (request) => createToken(parts, request),
    enroll: (request) => enroll(parts, request),
    protect: (request) => protect(parts, request),
    resync: (request) => resync(parts, request),
    status: (request) => status(parts, request),
  };
}

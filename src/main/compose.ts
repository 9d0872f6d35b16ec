/**
 * Composition: the real parts behind the command line's `Roles`. Each is loaded when it is asked for, so that no command waits for the libraries of
 * another: what starts a machine elsewhere counts seconds.
 */
import type { Roles } from '../cli/roles.ts';
import { systemClock } from '../kit/clock.ts';
import { systemRandom } from '../kit/random.ts';
import { createLogger } from '../observe/logger.ts';
import { posixFiles } from '../posix/files.ts';
import type { Parts } from './parts.ts';

export function composeRoles(version: string): Roles {
  const parts: Parts = {
    files: posixFiles,
    clock: systemClock,
    random: systemRandom,
    version,
    loggerOf: ({ logLevel }, role) => createLogger({ level: logLevel, clock: systemClock, fields: { role } }),
  };
  return {
    startUp: async (config) => (await import('./up.ts')).startUp(parts, config),
    startControl: async (config) => (await import('./control.ts')).startControl(parts, config),
    startTarget: async (config) => (await import('./target.ts')).startTarget(parts, config),
    startProcessServer: async (config) => (await import('./process-server.ts')).startProcessServer(parts, config),
    startShard: async (plan) => (await import('./shard.ts')).startShard(parts, plan),
    startAgent: async (config) => (await import('./agent.ts')).startAgent(parts, config),
    serveNbd: async (request) => (await import('./recovery.ts')).servePoint(parts, request),
    exportPoint: async (request, progress, signal) =>
      (await import('./export.ts')).exportPoint(parts, request, progress, signal),
    verify: async (request, progress, signal) => (await import('./verify.ts')).verify(parts, request, progress, signal),
    pinPoint: async (request) => (await import('./recovery.ts')).pinPoint(parts, request),
    releaseMachine: async (request) => (await import('./release.ts')).releaseMachine(parts, request),
    listPoints: async (request) => (await import('./recovery.ts')).listPoints(parts, request),
    keyExport: async (request) => (await import('./recovery.ts')).keyExport(parts, request),
    bootTestFailover: async (request, told, signal) =>
      (await import('./failover-boot.ts')).bootTestFailover(parts, request, told, signal),
    testFailover: async (request) => (await import('./failover.ts')).testFailover(parts, request),
    unplannedFailover: async (request) => (await import('./failover.ts')).unplannedFailover(parts, request),
    cancelFailover: async (request) => (await import('./failover.ts')).cancelFailover(parts, request),
    commitFailover: async (request) => (await import('./failover.ts')).commitFailover(parts, request),
    cleanUpFailovers: async (request) => (await import('./failover.ts')).cleanUpFailovers(parts, request),
    listFailovers: async (request) => (await import('./failover.ts')).listAllFailovers(parts, request),
    serveFailover: async (request) => (await import('./failover-serve.ts')).serveFailover(parts, request),
    createToken: async (request) => (await import('./operator.ts')).createToken(parts, request),
    enroll: async (request) => (await import('./operator.ts')).enroll(parts, request),
    protect: async (request) => (await import('./operator.ts')).protect(parts, request),
    pause: async (request) => (await import('./operator.ts')).pause(parts, request),
    unprotect: async (request) => (await import('./operator.ts')).unprotect(parts, request),
    processServers: async (request) => (await import('./operator.ts')).processServers(parts, request),
    limitProcessServer: async (request) => (await import('./operator.ts')).limitProcessServer(parts, request),
    move: async (request) => (await import('./operator.ts')).move(parts, request),
    resync: async (request) => (await import('./operator.ts')).resync(parts, request),
    status: async (request) => (await import('./operator.ts')).status(parts, request),
  };
}

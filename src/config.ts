/**
 * Configuration of the roles: a YAML file < environment `TIDEMARK_*` < flags. A key has the same name everywhere:
 * `target.listen` in the file, `TIDEMARK_TARGET_LISTEN`, `tidemark target --listen`. Keys stand in `config/tables.ts`.
 *
 * Invariants:
 *  1. An unknown key, in any section and from any source, is refused with the nearest valid one; so is a bad value. Both
 *     are Problem `bad-config`.
 *  2. Paths that a role function returns are absolute, and default into the role's own directory.
 *  3. No secret is configured by value; keys name files and directories only.
 */
import * as path from 'node:path';
import type { z } from 'zod';
import { type ConfigSources, sectionOf } from './config/sources.ts';
import { type diskTable, loopback, type Values } from './config/tables.ts';
import { limits } from './limits.ts';

export type DiskConfig = z.output<typeof diskTable>;

/** What every role has. `data` is the role's own directory. */
export type RoleCommon = Values<'common'> & { readonly data: string };
export type TargetConfig = Values<'target'> & RoleCommon & { readonly vault: string; readonly credentials: string };
export type ProcessServerConfig = Values<'processServer'> &
  RoleCommon & { readonly credentials: string; readonly spool: string };
export type ControlConfig = Values<'control'> & RoleCommon;
/** What a policy has too and is not set here is the policy's, or else of `agentDefaults`. */
export type AgentConfig = Values<'agent'> & RoleCommon & { readonly credentials: string };
export interface ClientConfig {
  readonly controlUrl: string;
  readonly credentials: string;
}
/** All roles of the recovery site in one process; its own `data` is the directory that holds theirs. */
export type UpConfig = RoleCommon & {
  readonly target: TargetConfig;
  readonly processServer: ProcessServerConfig;
  readonly control: ControlConfig;
};

export const agentDefaults = {
  intervalSeconds: 5,
  compression: 'lz4',
  blockSize: limits.disk.blockBytesDefault,
  resyncWindow: null,
  resyncTimeZone: 'UTC',
  resyncAtDirtyPercent: 50,
  appConsistentHours: 0,
} as const;
const defaultData = '/var/lib/tidemark';
const defaultControlUrl = `https://${loopback}:8443`;

function roleCommon(folder: string, own: string | undefined, sources: ConfigSources): RoleCommon {
  const common = sectionOf('common', sources);
  return { ...common, data: path.resolve(own ?? path.join(common.data ?? defaultData, folder)) };
}

const within = (role: RoleCommon, given: string | undefined, leaf: string): string =>
  path.resolve(given ?? path.join(role.data, leaf));

export function targetConfig(sources: ConfigSources): TargetConfig {
  const own = sectionOf('target', sources);
  const role = roleCommon('target', own.data, sources);
  const credentials = within(role, own.credentials, 'credentials');
  return { ...own, ...role, vault: within(role, own.vault, 'vault.key'), credentials };
}

export function processServerConfig(sources: ConfigSources): ProcessServerConfig {
  const own = sectionOf('processServer', sources);
  const role = roleCommon('process-server', own.data, sources);
  const credentials = within(role, own.credentials, 'credentials');
  return { ...own, ...role, credentials, spool: within(role, own.spool, 'spool') };
}

export function agentConfig(sources: ConfigSources): AgentConfig {
  const own = sectionOf('agent', sources);
  const role = roleCommon('agent', own.data, sources);
  const disks = own.disks.map((disk) => ({
    ...disk,
    image: path.resolve(disk.image),
    ...(disk.socket === undefined ? {} : { socket: path.resolve(disk.socket) }),
  }));
  const programs = Object.fromEntries(
    (['preHook', 'postHook', 'guestAgentSocket'] as const).flatMap((key) => {
      const given = own[key];
      return given === undefined ? [] : [[key, path.resolve(given)]];
    }),
  );
  return { ...own, ...role, ...programs, disks, credentials: within(role, own.credentials, 'credentials') };
}

export function controlConfig(sources: ConfigSources): ControlConfig {
  const own = sectionOf('control', sources);
  const password = own.statePassword === undefined ? {} : { statePassword: path.resolve(own.statePassword) };
  return { ...own, ...password, ...roleCommon('control', own.data, sources) };
}

/** For commands that ask the control API; on its own host they need no settings. */
export function clientConfig(sources: ConfigSources): ClientConfig {
  const common = sectionOf('common', sources);
  const credentials = sectionOf('client', sources).credentials ?? path.join(common.data ?? defaultData, 'control');
  return { controlUrl: common.controlUrl ?? defaultControlUrl, credentials: path.resolve(credentials) };
}

/** The process server of `up` feeds the target of `up`; whatever names another target is not asked. */
export function upConfig(sources: ConfigSources): UpConfig {
  const target = targetConfig(sources);
  const processServer = { ...sources.flags.processServer, target: `${loopback}:${target.listen.port}` };
  return {
    ...roleCommon('', undefined, sources),
    target,
    processServer: processServerConfig({ ...sources, flags: { ...sources.flags, processServer } }),
    control: controlConfig(sources),
  };
}

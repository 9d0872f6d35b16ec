/** Composition of what makes a machine quiet around an app-consistent cut: the hooks and the guest agent of the configuration. */
import { AppConsistency } from '../agent/app-consistency.ts';
import { GuestAgent } from '../agent/guest-agent.ts';
import { Hook } from '../agent/hooks.ts';
import type { AgentConfig } from '../config.ts';
import type { Logger } from '../observe/logger.ts';
import type { Closers, Parts } from './parts.ts';

/** @throws Problem `bad-config`: a hook that does not exist or is not executable. */
export async function openAppConsistency(
  parts: Parts,
  config: AgentConfig,
  closers: Closers,
  logger: Logger,
): Promise<AppConsistency> {
  const { files, clock, random } = parts;
  const { machine, data, preHook, postHook, guestAgentSocket } = config;
  const hook = (which: 'pre' | 'post', path: string | undefined): Promise<Hook> | null =>
    path === undefined ? null : Hook.of({ which, path, machine, timeoutMs: config.hookTimeoutSeconds * 1000, clock });
  const [pre, post] = [await hook('pre', preHook), await hook('post', postHook)];
  const timeoutMs = config.guestAgentTimeoutSeconds * 1000;
  const guestAgent =
    guestAgentSocket === undefined ? null : new GuestAgent({ socket: guestAgentSocket, timeoutMs, clock, random });
  const app = await AppConsistency.open({ pre, post, guestAgent, directory: data, files, clock, random, logger });
  closers.add(() => app.close());
  return app;
}

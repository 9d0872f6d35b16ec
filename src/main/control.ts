/** Composition of the control API. */
import type { Running } from '../cli/roles.ts';
import type { ControlConfig } from '../config.ts';
import { startControl as startControlApi, type Control } from '../control/server.ts';
import { acquireLock } from '../posix/lock.ts';
import { lockIdentity, RoleBuilder, type Parts } from './parts.ts';

/** Starts the API and hands it to `started`, for who runs other roles beside it. */
export async function openControl(parts: Parts, config: ControlConfig, builder: RoleBuilder): Promise<Control> {
  const { files, clock, random } = parts;
  const logger = parts.loggerOf(config, 'control');
  await files.makeDirectory(config.data);
  const lock = await acquireLock(files, clock, config.data, lockIdentity(clock, 'control'));
  builder.closers.add(() => lock.release());
  const { host, port } = config.listen;
  const control = await startControlApi({ dataDir: config.data, host, port, files, clock, random, logger });
  builder.closers.add(() => control.close());
  builder.reachable('control API', control.url);
  return control;
}

export function startControl(parts: Parts, config: ControlConfig): Promise<Running> {
  return RoleBuilder.build(async (builder) => {
    await openControl(parts, config, builder);
    await builder.observe(parts, config, parts.loggerOf(config, 'control'), () => ({ ready: true, reasons: [] }));
  }, config.data);
}

/** Composition of the control API. */
import type { Running } from '../cli/roles.ts';
import type { ControlConfig } from '../config.ts';
import { registerControlSeries } from '../control/metrics.ts';
import { startControl as startControlApi, type Control } from '../control/server.ts';
import type { Logger } from '../observe/logger.ts';
import { registerCertificateSeries } from '../observe/metrics.ts';
import { acquireLock } from '../posix/lock.ts';
import { lockIdentity, partsOfRole, RoleBuilder, type Parts } from './parts.ts';

/** Starts the API and hands it to `started`, for who runs other roles beside it. */
export async function openControl(
  { files, clock, random }: Parts,
  config: ControlConfig,
  builder: RoleBuilder,
  logger: Logger,
): Promise<Control> {
  await files.makeDirectory(config.data);
  const lock = await acquireLock(files, clock, config.data, lockIdentity(clock, 'control'));
  builder.closers.add(() => lock.release());
  const { host, port } = config.listen;
  const postgres =
    config.state === undefined ? {} : { postgres: { address: config.state, passwordFile: config.statePassword } };
  const common = { dataDir: config.data, files, clock, random, logger };
  const control = await startControlApi({ ...common, host, port, ...postgres });
  builder.closers.add(() => control.close());
  builder.reachable('control API', control.url);
  registerControlSeries(builder.registry, () => control.status());
  registerCertificateSeries(builder.registry, 'authority', control.caNotAfterMs);
  return control;
}

export function startControl(common: Parts, config: ControlConfig): Promise<Running> {
  const logger = common.loggerOf(config, 'control');
  const parts = partsOfRole(common, logger);
  return RoleBuilder.build(async (builder) => {
    await openControl(parts, config, builder, logger);
    await builder.observe(parts, config, logger, () => ({ ready: true, reasons: [] }));
  }, config.data);
}

/** `tidemark up`: control, target and process server of one site in one process, which enrol themselves on first start. */
import * as path from 'node:path';
import type { Running } from '../cli/roles.ts';
import type { UpConfig } from '../config.ts';
import { openControl } from './control.ts';
import { createToken, enroll } from './operator.ts';
import { partsOfRole, RoleBuilder, type Parts } from './parts.ts';
import { startProcessServer } from './process-server.ts';
import { startTarget } from './target.ts';

/** Enrols a role of this process unless it has a certificate already. */
async function enrollOnce(
  parts: Parts,
  where: { controlUrl: string; credentials: string },
  role: 'target' | 'process-server',
  into: string,
): Promise<void> {
  if (await parts.files.exists(path.join(into, 'cert.pem'))) return;
  const name = `${role}-1`;
  const { registrationKey } = await createToken(parts, { ...where, role, name, hours: 1 });
  await enroll(parts, { controlUrl: where.controlUrl, registrationKey, role, name, into });
}

export function startUp(parts: Parts, config: UpConfig): Promise<Running> {
  return RoleBuilder.build(async (builder) => {
    const logger = parts.loggerOf(config.control, 'control');
    const own = partsOfRole(parts, logger);
    const control = await openControl(own, config.control, builder, logger);
    const where = { controlUrl: control.url, credentials: config.control.data };
    await enrollOnce(parts, where, 'target', config.target.credentials);
    await enrollOnce(parts, where, 'process-server', config.processServer.credentials);
    const start = async (role: Promise<Running>): Promise<Running> => {
      const running = await role;
      builder.closers.add(() => running.close());
      running.ended.catch((error: unknown) => {
        builder.fail(error);
      });
      for (const { what, where: at } of running.reachable) builder.reachable(what, at);
      return running;
    };
    const target = await start(startTarget(parts, { ...config.target, controlUrl: control.url }));
    const targetPort = Number(
      target.reachable
        .find(({ what }) => what === 'process servers')
        ?.where.split(':')
        .at(-1),
    );
    await start(
      startProcessServer(parts, {
        ...config.processServer,
        controlUrl: control.url,
        target: { host: config.processServer.target.host, port: targetPort },
      }),
    );
    await builder.observe(own, config.control, logger, () => ({ ready: true, reasons: [] }));
  });
}

import type { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { bytesText, printJson, printTable, timeText } from '../output.ts';
import { addJson, type Options } from '../options.ts';
import { addVaultOptions, vaultOf } from '../vault-options.ts';

export function addPoints(program: Command, context: CliContext): void {
  const command = program.command('points').description("list recovery points, from a target's directory");
  addJson(addVaultOptions(command))
    .argument('[machine]', 'only of this machine')
    .action(async (machine: string | undefined, options: Options) => {
      const points = await context.roles.listPoints({ ...(await vaultOf(context, options)), machine });
      if (options['json'] === true) {
        printJson(context.terminal, { points });
        return;
      }
      const rows = points.flatMap((point) =>
        point.disks.map((disk) => [
          point.machine,
          String(point.point),
          timeText(point.cutTimeMs),
          point.damaged ? 'damaged' : point.provenMs === null ? 'committed' : 'proven',
          point.consistency,
          disk.name,
          bytesText(disk.size),
          disk.kind,
          bytesText(disk.payloadBytes),
          disk.root.slice(0, 16),
        ]),
      );
      printTable(
        context.terminal,
        ['MACHINE', 'POINT', 'CUT', 'STATE', 'KIND', 'DISK', 'SIZE', 'CYCLE', 'ADDED', 'ROOT'],
        rows,
      );
    });
}

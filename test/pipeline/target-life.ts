/** One run of a master target, composed as `main` does it, without sockets. */
import type { Problem } from '../../src/kit/problem.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { listMachines, openDataDirectory, type DataDirectory } from '../../src/store/machine-directory.ts';
import { openMachineStore, type OpeningReport } from '../../src/store/machine-open.ts';
import type { MachineStore } from '../../src/store/machine-store.ts';
import { Vault } from '../../src/store/vault.ts';
import { Target } from '../../src/target/target.ts';
import { loseIndex } from '../store/open-indexes.ts';
import { MortalFiles } from './mortal-files.ts';
import { clock, machine, type Surroundings } from './surroundings.ts';

export const bootId = 'boot-1';

/** What a target needs of it. */
type Place = Pick<Surroundings, 'data' | 'store' | 'vaultKey' | 'fatal' | 'logger'>;

export class TargetLife {
  readonly target: Target;
  readonly files: MortalFiles;
  readonly reports: OpeningReport[];
  readonly #data: DataDirectory;
  readonly #indexDirectory: string;

  private constructor(site: Place, files: MortalFiles, data: DataDirectory, target: Target, reports: OpeningReport[]) {
    this.files = files;
    this.target = target;
    this.reports = reports;
    this.#data = data;
    this.#indexDirectory = `${site.store}/index`;
  }

  static async start(site: Place): Promise<TargetLife> {
    const files = new MortalFiles(posixFiles);
    const identity = { pid: process.pid, role: 'target', since: new Date(clock.wallMs()).toISOString() };
    const data = await openDataDirectory({ files: posixFiles, clock, path: site.data, identity });
    const keyFile = site.vaultKey;
    const vault = await Vault.openOrCreate({
      files: posixFiles,
      random: systemRandom,
      keyFile,
      expected: data.facts?.vault,
    });
    if (data.facts === null) await data.create(vault.id);
    const reports: OpeningReport[] = [];
    const target = new Target({
      version: 'test',
      clock,
      logger: site.logger('target', () => !files.dead),
      openMachine: async (name) => {
        const fatal = (problem: Problem): void => void site.fatal.push(problem);
        const opened = await openMachineStore({
          files,
          clock,
          random: systemRandom,
          vault,
          data,
          machine: name,
          bootId,
          fatal,
        });
        reports.push(opened.report);
        return opened.store;
      },
      machines: () => listMachines(files, data.path),
    });
    await target.start();
    return new TargetLife(site, files, data, target, reports);
  }

  get store(): MachineStore | undefined {
    return this.target.stores().get(machine);
  }

  async close(): Promise<void> {
    await this.target.close();
    await this.#data.close();
  }

  /** As SIGKILL. */
  async crash(): Promise<void> {
    const dying = this.files.die();
    void this.target.close();
    await dying;
    await loseIndex(this.#indexDirectory);
    await this.#data.close();
  }
}

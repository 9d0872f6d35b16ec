/**
 * Points as `export` and `nbd` read them, many by one view: `export` opens vault, index and threads for each one anew, half a second that a test of a
 * hundred points has no use for.
 */
import { rm } from 'node:fs/promises';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { readBootId } from '../../src/main/boot-id.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { PointImage } from '../../src/recovery/point-image.ts';
import { MachineView } from '../../src/store/machine-view.ts';
import { Vault } from '../../src/store/vault.ts';
import { imageContent } from '../recovery/image-content.ts';

export class PointReader {
  readonly #view: MachineView;
  readonly #vault: Vault;
  readonly #scratch: string;

  private constructor(view: MachineView, vault: Vault, scratch: string) {
    this.#view = view;
    this.#vault = vault;
    this.#scratch = scratch;
  }

  /** `data`: a target's directory, whose target may run. `scratch`: a directory to be made where it is needed. */
  static async open(data: string, machine: string, scratch: string): Promise<PointReader> {
    const vault = await Vault.open({ files: posixFiles, random: systemRandom, keyFile: path.join(data, 'vault.key') });
    const bootId = await readBootId(posixFiles);
    const view = await MachineView.open({ files: posixFiles, clock: systemClock, data, machine, bootId, scratch });
    return new PointReader(view, vault, scratch);
  }

  /** The whole disk as of a point, every block matched with its leaf and these with the committed root. @throws Problem `damaged`. */
  async read(disk: string, point: number): Promise<Buffer> {
    const at = await this.#view.diskAt(this.#view.disk(disk), this.#view.choosePoint(point), this.#vault);
    return imageContent(new PointImage(at, systemClock));
  }

  async close(): Promise<void> {
    await this.#view.close();
    await rm(this.#scratch, { recursive: true, force: true });
  }
}

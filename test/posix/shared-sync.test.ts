import { expect, it } from 'vitest';
import { SharedSync } from '../../src/posix/shared-sync.ts';

/** Syncs that end when they are told to, and how far each asker got. */
class Stage {
  readonly told: string[] = [];
  begun = 0;
  #end: ((error?: Error) => void) | null = null;
  readonly #syncs = new SharedSync(() => {
    if (this.#end) throw new Error('two syncs at once');
    this.begun += 1;
    return new Promise((resolve, reject) => {
      this.#end = (error) => {
        this.#end = null;
        if (error) reject(error);
        else resolve();
      };
    });
  });

  ask(who: string): void {
    this.#syncs.run().then(
      () => this.told.push(`${who} synced`),
      (error: unknown) => this.told.push(`${who} ${String(error)}`),
    );
  }

  /** The sync under way ends; all that follows from it has happened afterwards. `meanwhile` comes between any two steps of it. */
  async end(error?: Error, meanwhile: () => void = () => undefined): Promise<void> {
    this.#end?.(error);
    for (let step = 0; step < 10; step += 1) {
      meanwhile();
      await Promise.resolve();
    }
  }
}

it('who asks while a sync is under way waits for the next one, and shares it', async () => {
  const stage = new Stage();
  stage.ask('first');
  stage.ask('second');
  stage.ask('third');
  expect(stage.begun).toBe(1);
  await stage.end();
  expect(stage.told).toEqual(['first synced']);
  expect(stage.begun).toBe(2);
  stage.ask('fourth');
  await stage.end();
  expect(stage.told).toEqual(['first synced', 'second synced', 'third synced']);
  await stage.end();
  expect(stage.told.at(-1)).toBe('fourth synced');
  expect(stage.begun).toBe(3);
});

it('two never run at once, whoever asks between the end of one and the beginning of the next', async () => {
  const stage = new Stage();
  stage.ask('first');
  stage.ask('second');
  await stage.end(undefined, () => {
    stage.ask('late');
  });
  for (let more = 0; more < 3; more += 1) await stage.end();
  expect(stage.told.filter((each) => each !== 'late synced')).toEqual(['first synced', 'second synced']);
  expect(stage.told).toHaveLength(12);
});

it('all who wait for a sync that failed, and all who come later, hear of it; nobody syncs again', async () => {
  const stage = new Stage();
  stage.ask('first');
  stage.ask('second');
  await stage.end(new Error('EIO'));
  stage.ask('third');
  await stage.end();
  expect(stage.told).toEqual(['first Error: EIO', 'second Error: EIO', 'third Error: EIO']);
  expect(stage.begun).toBe(1);
});

/** Whom the tests of kills kill, and how they come back. */
import type { Dice } from '../product/content.ts';
import type { Scene } from '../product/scene.ts';

export type Victim = 'agent' | 'process-server' | 'target';

/** Alone, or two at once. */
const parties: readonly (readonly Victim[])[] = [
  ['agent'],
  ['process-server'],
  ['target'],
  ['agent', 'process-server'],
  ['agent', 'target'],
  ['process-server', 'target'],
];

/** Every one of `list`, in random order. */
export function shuffled<T>(list: readonly T[], dice: Dice): T[] {
  const left = [...list];
  return list.map(() => {
    const one = dice.pick(left);
    left.splice(left.indexOf(one), 1);
    return one;
  });
}

/** Every party once per six rounds, in random order. */
export function* partiesOf(dice: Dice): Generator<readonly Victim[], never> {
  for (;;) yield* shuffled(parties, dice);
}

export async function kill(scene: Scene, party: readonly Victim[]): Promise<void> {
  await Promise.all(party.map((victim) => (victim === 'agent' ? scene.killLife() : scene.site.kill(victim))));
}

/** Resolves when it runs; `settings` are an agent's. */
export async function start(
  scene: Scene,
  victim: Victim,
  settings?: Readonly<Record<string, string | number>>,
): Promise<void> {
  if (victim === 'target') await scene.site.startTarget();
  else if (victim === 'process-server') await scene.site.startProcessServer();
  else await scene.startLife(settings);
}

/** Checks of what an operator writes. */
import { expect, it } from 'vitest';
import { textFor } from '../../src/control/fields.ts';

it('text that is too long is refused before anything reads it', () => {
  const read: string[] = [];
  const field = textFor((text) => read.push(text));
  expect(field.safeParse(`a${' '.repeat(200_000)}b`).success).toBe(false);
  expect(read).toEqual([]);
  expect(field.safeParse('a b').success).toBe(true);
  expect(read).toEqual(['a b']);
});

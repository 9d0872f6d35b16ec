/** The one suite of the state port: every implementation runs it (contract rules of `src/control/state.ts`). */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { State } from '../../src/control/state.ts';

export interface StateFixture {
  /** Opens the store; the same store again after `close`. */
  open(): Promise<State>;
  remove(): Promise<void>;
}

export function describeState(name: string, make: () => Promise<StateFixture>): void {
  describe(`state port: ${name}`, () => {
    let fixture: StateFixture;
    let state: State;
    beforeEach(async () => {
      fixture = await make();
      state = await fixture.open();
    });
    afterEach(async () => {
      await state.close();
      await fixture.remove();
    });
    const put = async (id: string, value: number, expected?: number) =>
      await state.commit([
        { collection: 'machines', id, value: { value }, ...(expected === undefined ? {} : { expected }) },
      ]);
    const ids = async (options: Parameters<State['list']>[1]) =>
      (await state.list('machines', options)).map(({ id }) => id);

    it('keeps records over a restart (rule 1)', async () => {
      const result = await put('a', 1);
      await state.close();
      await state.close();
      state = await fixture.open();
      const version = result.ok ? result.versions[0] : undefined;
      expect(await state.get('machines', 'a')).toEqual({ id: 'a', value: { value: 1 }, version });
      expect(await state.get('policies', 'a')).toBeUndefined();
    });

    it('gives many at once as it gives each, and only those that exist', async () => {
      await put('b', 2);
      await put('a', 1);
      const wanted = ['a', "it's", 'b', 'a', '{b,a}'];
      const found = await state.getMany('machines', wanted);
      expect([...found.keys()].sort()).toEqual(['a', 'b']);
      for (const [id, record] of found) expect(record).toEqual(await state.get('machines', id));
      expect(await state.getMany('policies', ['a'])).toEqual(new Map());
      expect(await state.getMany('machines', [])).toEqual(new Map());
    });

    it('makes all changes or none (rules 1 and 2)', async () => {
      await put('a', 1);
      const mixed = await state.commit([
        { collection: 'machines', id: 'b', value: 1, expected: 0 },
        { collection: 'machines', id: 'a', value: 2, expected: 0 },
      ]);
      expect(mixed).toEqual({ ok: false, conflict: 1 });
      expect(await ids({ limit: 10 })).toEqual(['a']);
    });

    it('compares before it sets and deletes (rule 2)', async () => {
      const made = await put('a', 1, 0);
      const version = made.ok ? (made.versions[0] ?? 0) : 0;
      expect(await put('a', 2, 0)).toEqual({ ok: false, conflict: 0 });
      expect(await put('a', 2, version + 1)).toEqual({ ok: false, conflict: 0 });
      expect(await put('a', 3, version)).toMatchObject({ ok: true });
      expect(
        await state.commit([{ collection: 'machines', id: 'a', value: undefined, expected: version }]),
      ).toMatchObject({ ok: false });
      expect(await state.get('machines', 'a')).toMatchObject({ value: { value: 3 } });
      expect(await state.commit([{ collection: 'machines', id: 'a', value: undefined }])).toEqual({
        ok: true,
        versions: [0],
      });
      expect(await state.get('machines', 'a')).toBeUndefined();
    });

    it('lets exactly one of many win (rule 2)', async () => {
      const results = await Promise.all(Array.from({ length: 20 }, (_, index) => put('a', index, 0)));
      expect(results.filter(({ ok }) => ok)).toHaveLength(1);
    });

    it('never gives a version twice (rule 3)', async () => {
      const seen = new Set<number>();
      for (let round = 0; round < 3; round += 1) {
        const result = await put('a', 1, 0);
        for (const version of result.ok ? result.versions : []) {
          expect(seen.has(version)).toBe(false);
          seen.add(version);
        }
        await state.commit([{ collection: 'machines', id: 'a', value: undefined }]);
        await state.close();
        state = await fixture.open();
      }
      expect(seen.size).toBe(3);
    });

    it('lists in order, by prefix, from a cursor, both ways (rule 5)', async () => {
      for (const id of ['b/2', 'a', 'b/1', 'B', 'b/3', 'b0', 'c', 'b']) await put(id, 1);
      await state.commit([{ collection: 'policies', id: 'b/9', value: 1 }]);
      expect(await ids({ limit: 10 })).toEqual(['B', 'a', 'b', 'b/1', 'b/2', 'b/3', 'b0', 'c']);
      expect(await ids({ limit: 10, prefix: 'b/' })).toEqual(['b/1', 'b/2', 'b/3']);
      expect(await ids({ limit: 2, prefix: 'b/' })).toEqual(['b/1', 'b/2']);
      expect(await ids({ limit: 2, prefix: 'b/', after: 'b/2' })).toEqual(['b/3']);
      expect(await ids({ limit: 2, prefix: 'b/', backwards: true })).toEqual(['b/3', 'b/2']);
      expect(await ids({ limit: 2, prefix: 'b/', backwards: true, after: 'b/2' })).toEqual(['b/1']);
      expect(await ids({ limit: 2, prefix: 'b/', after: 'b/3' })).toEqual([]);
      await state.commit([{ collection: 'machines', id: 'b/2', value: undefined }]);
      expect(await ids({ limit: 2, prefix: 'b/', after: 'b/2' })).toEqual(['b/3']);
      expect(await ids({ limit: 10, backwards: true, after: 'b' })).toEqual(['a', 'B']);
      expect(await ids({ limit: 10, prefix: 'zz' })).toEqual([]);
    });

    it('takes several changes of one record, of which the last counts (rules 1 and 3)', async () => {
      const made = await put('a', 1);
      const change = (value: number | undefined) => ({ collection: 'machines', id: 'a', value }) as const;
      const result = await state.commit([change(2), change(undefined), change(3)]);
      const versions = result.ok ? result.versions : [];
      expect(versions[1]).toBe(0);
      expect(versions[2]).toBeGreaterThan(versions[0] ?? 0);
      expect(versions[0]).toBeGreaterThan(made.ok ? (made.versions[0] ?? 0) : 0);
      expect(await state.get('machines', 'a')).toEqual({ id: 'a', value: 3, version: versions[2] });
      await state.commit([change(4), change(undefined)]);
      expect(await state.get('machines', 'a')).toBeUndefined();
    });

    it('gives text back as it was, whatever it is made of (rule 6)', async () => {
      const value = { 'naïve \u0000 ключ': ['\ud800', '𝄞', '\\', '"'], deep: { nothing: null } };
      await state.commit([{ collection: 'machines', id: 'a', value }]);
      expect((await state.get('machines', 'a'))?.value).toEqual(value);
    });

    it('tells the time (rule 7)', async () => {
      expect(Math.abs((await state.nowMs()) - Date.now())).toBeLessThan(5000);
    });

    it('gives values of its own (rule 6)', async () => {
      await put('a', 1);
      const first = await state.get('machines', 'a');
      Object.assign(first?.value as object, { value: 9 });
      expect((await state.get('machines', 'a'))?.value).toEqual({ value: 1 });
    });
  });
}

/**
 * The house checks itself: import directions, cycles, barrels, dead files, length, names, machine paths, the README's commands.
 * Each rule is first shown to catch a made-up offender, so that a rule that stopped working turns red too.
 */
import { statSync } from 'node:fs';
import * as path from 'node:path';
import { describe, expect, it } from 'vitest';
import ts from 'typescript';
import { buildProgram } from '../src/cli/program.ts';
import { commandLine } from './cli/fake-roles.ts';
import { fileLines, functionLines, lengthFaults, limits, type Ratchet } from './tidy/length.ts';
import { commandLines, readmeFaults } from './tidy/readme.ts';
import { importFault, hashingRooms, readingRooms, roomOf, sealingRooms } from './tidy/rooms.ts';
import { findCycle, listTree, parseSources, reachable, readText, root } from './tidy/tree.ts';

const tree = listTree();
const all = new Set(tree);
const sources = parseSources(
  tree.filter((name) => name.endsWith('.ts')),
  all,
);
/** Each with the rooms its thread may load. */
const workers: ReadonlyMap<string, readonly string[]> = new Map([
  ['src/process-server/worker.ts', sealingRooms],
  ['src/agent/hash-worker.ts', hashingRooms],
  ['src/recovery/read-worker.ts', readingRooms],
]);

/** A made-up tree: file name → text. */
function madeUp(files: Record<string, string>): ReturnType<typeof parseSources> {
  return parseSources(Object.keys(files), new Set(Object.keys(files)), (name) => files[name] ?? '');
}

describe('imports', () => {
  it('follow the rooms', () => {
    expect(importFault('src/disk/a.ts', 'src/store/b.ts')).toContain('disk may import kit, limits');
    expect(importFault('src/agent/a.ts', 'src/capture/contract.ts')).toBeNull();
    expect(importFault('src/agent/a.ts', 'src/capture/nbd.ts')).not.toBeNull();
    expect(importFault('src/cli/a.ts', 'src/main.ts')).toContain('nobody imports main');
    const faults = sources.flatMap(({ name, imports }) =>
      name.startsWith('src/') ? imports.map((to) => importFault(name, to)) : [],
    );
    expect(faults.filter((fault) => fault !== null)).toEqual([]);
  });

  it('have no cycles, types included', () => {
    const offender = madeUp({
      'a.ts': "import type { B } from './b.ts'",
      'b.ts': "export type B = import('./a.ts').A",
    });
    expect(findCycle(offender)).toEqual(['a.ts', 'b.ts', 'a.ts']);
    expect(findCycle(sources)).toBeNull();
  });

  it('go to the file that declares, not to a barrel', () => {
    const [offender] = madeUp({ 'a.ts': "export { b } from './b.ts';\nexport * from './c.ts';" });
    expect(offender?.reexports).toBe(2);
    const barrels = sources.filter(({ name, reexports }) => reexports > 0 || path.basename(name) === 'index.ts');
    expect(barrels.map(({ name }) => name)).toEqual([]);
  });

  it('of a worker thread stay within its rooms', () => {
    for (const [entry, rooms] of workers) {
      const loaded = [...reachable(sources, [entry])].filter((name) => name.startsWith('src/'));
      expect(loaded.filter((name) => !rooms.includes(roomOf(name)))).toEqual([]);
    }
  });
});

describe('files', () => {
  it('are reached from a program, a script or a test', () => {
    const offender = madeUp({ 'src/main.ts': "import './a.ts'", 'src/a.ts': '', 'src/dead.ts': '' });
    expect(reachable(offender, ['src/main.ts'])).toEqual(new Set(['src/main.ts', 'src/a.ts']));
    const roots = tree.filter(
      (name) =>
        ['src/main.ts', ...workers.keys(), 'vitest.config.ts', 'test/closing-line.ts'].includes(name) ||
        /^(?:scripts|native-bench)\/[^/]+\.ts$/.test(name) ||
        name.endsWith('.test.ts'),
    );
    const alive = reachable(sources, roots);
    expect(sources.map(({ name }) => name).filter((name) => !alive.has(name))).toEqual([]);
  });

  it('stand where the design puts them', () => {
    const top = new Set(tree.map((name) => name.split('/')[0] ?? ''));
    const allowed = new Set(
      (
        'src native-bench test scripts deploy Dockerfile LICENSE README.md package.json package-lock.json tsconfig.json tsconfig.build.json ' +
        'vitest.config.ts eslint.config.js knip.jsonc'
      ).split(' '),
    );
    expect([...top].filter((name) => !allowed.has(name) && !name.startsWith('.'))).toEqual([]);
    expect(
      ['src/wire/PROTOCOL.md', 'src/store/FORMAT.md', 'src/capture/FORMAT.md'].filter((name) => !all.has(name)),
    ).toEqual([]);
  });

  it('say in their names what they are', () => {
    const vague = /(?:^|[/.-])(?:util|utils|helper|helpers|manager|managers|misc|common)(?:[/.-]|$)/i;
    expect('src/kit/utils.ts').toMatch(vague);
    expect('src/kit/session-manager.ts').toMatch(vague);
    expect(tree.filter((name) => vague.test(name))).toEqual([]);
    const declared = /\b(?:class|interface|type|function|const)\s+\w*(?:Utils?|Helpers?|Manager)\b/;
    expect('class LeaseManager {').toMatch(declared);
    expect(
      sources
        .filter(({ name, syntax }) => name.startsWith('src/') && declared.test(syntax.text))
        .map(({ name }) => name),
    ).toEqual([]);
  });

  it('name no directory of the machine they were written on', () => {
    const home = new RegExp(`(?:^|[\\s"'\`=(:])/(?:${['work', 'root', 'home/\\w+', 'Users/\\w+', 'tmp'].join('|')})/`);
    expect(`cd ${['', 'home', 'ada', 'x'].join('/')}`).toMatch(home);
    const texts = tree.filter((name) => !/\.(?:png|bin|raw)$/.test(name) && name !== 'package-lock.json');
    expect(texts.filter((name) => home.test(readText(name)))).toEqual([]);
  });
});

describe('length', () => {
  const ratchet = JSON.parse(readText('test/tidy/ratchet.json')) as Ratchet;
  const code = tree.filter((name) => /\.(?:ts|js)$/.test(name) || /^scripts\/[\w-]+$/.test(name));

  it('only goes down', () => {
    const measured = new Map([
      ['long', 500],
      ['short', 10],
    ]);
    expect(lengthFaults(measured, 400, {})).toEqual(['long: 500 lines, at most 400']);
    expect(lengthFaults(measured, 400, { long: 500 })).toEqual([]);
    expect(lengthFaults(measured, 400, { long: 510 })).toEqual(['long: lower the ratchet from 510 to 500']);
    expect(lengthFaults(measured, 400, { long: 500, short: 450 })).toEqual([
      'short: remove it from the ratchet, it has 10 lines',
    ]);
  });

  it('of files keeps to its limit', () => {
    const measured = new Map(code.map((name) => [name, fileLines(readText(name))]));
    expect(lengthFaults(measured, limits.fileLines, ratchet.fileLines)).toEqual([]);
  });

  it('of functions keeps to its limit', () => {
    const text = `class A { run() {\n\n\n} }\ndescribe('x', () => {\n\n\n\n\n\n});`;
    const offender = ts.createSourceFile('a.ts', text, ts.ScriptTarget.ESNext, true);
    expect(functionLines(offender)).toEqual(new Map([['run', 4]]));
    const measured = new Map(
      sources.flatMap(({ name, syntax }) => [...functionLines(syntax)].map(([fn, lines]) => [`${name}#${fn}`, lines])),
    );
    expect(lengthFaults(measured, limits.functionLines, ratchet.functionLines)).toEqual([]);
  });
});

describe('README', () => {
  const manifest = JSON.parse(readText('package.json')) as { scripts: Record<string, string> };
  const known = {
    npmScripts: new Set(Object.keys(manifest.scripts)),
    executables: new Set(
      tree.filter((name) => name.startsWith('scripts/') && (statSync(path.join(root, name)).mode & 0o111) !== 0),
    ),
    program: buildProgram(commandLine().context),
  };

  it('names only commands that exist', () => {
    const offender =
      '```sh\nnpm run nothing\nscripts/nothing # tidemark no\ntidemark nothing\ntidemark status --nothing\ntidemark key \\\n  nothing\n```\n';
    expect(readmeFaults(offender, known)).toEqual([
      'npm run nothing: no such script',
      'scripts/nothing: no such executable',
      'tidemark: no command nothing',
      'tidemark status: no option --nothing',
      'tidemark: no command nothing',
    ]);
    const readme = readText('README.md');
    expect(commandLines(readme).length).toBeGreaterThan(5);
    expect(readmeFaults(readme, known)).toEqual([]);
  });
});

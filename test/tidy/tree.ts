/** The tree as git sees it (tracked, and new files that are not ignored), and the import graph of its TypeScript. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import ts from 'typescript';

export const root = path.resolve(import.meta.dirname, '../..');

/** Paths from the root, sorted. */
export function listTree(): string[] {
  const out = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z'], {
    cwd: root,
    encoding: 'utf8',
  });
  const names = out.split('\0').filter((name) => name !== '' && existsSync(path.join(root, name)));
  return [...new Set(names)].sort();
}

export function readText(name: string): string {
  return readFileSync(path.join(root, name), 'utf8');
}

export interface Source {
  readonly name: string;
  readonly syntax: ts.SourceFile;
  /** Files of this tree it names, in any way: import, export from, `import()`, type import, `new URL(…, import.meta.url)`. */
  readonly imports: readonly string[];
  /** `export … from` statements. */
  readonly reexports: number;
}

function specifiers(syntax: ts.SourceFile): { all: string[]; reexports: number } {
  const all: string[] = [];
  let reexports = 0;
  const literal = (node: ts.Node | undefined): void => {
    if (node && ts.isStringLiteralLike(node)) all.push(node.text);
  };
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) literal(node.moduleSpecifier);
    if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
      literal(node.moduleSpecifier);
      reexports += 1;
    }
    if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) literal(node.argument.literal);
    if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) literal(node.arguments[0]);
    // Worker entries and files beside the code: new URL('./worker.ts', import.meta.url).
    if (ts.isNewExpression(node) && node.expression.getText(syntax) === 'URL') literal(node.arguments?.[0]);
    ts.forEachChild(node, visit);
  };
  visit(syntax);
  return { all, reexports };
}

/** Parses `names` (TypeScript files of `all`); imports are resolved to names in `all`, others are left out. */
export function parseSources(names: readonly string[], all: ReadonlySet<string>, read = readText): Source[] {
  return names.map((name) => {
    const syntax = ts.createSourceFile(name, read(name), ts.ScriptTarget.ESNext, true);
    const found = specifiers(syntax);
    const imports = found.all
      .filter((specifier) => specifier.startsWith('.'))
      .map((specifier) => path.posix.join(path.posix.dirname(name), specifier))
      .map((target) => (all.has(target) ? target : target.replace(/\.js$/, '.ts')))
      .filter((target) => all.has(target));
    return { name, syntax, imports: [...new Set(imports)], reexports: found.reexports };
  });
}

/** Everything that can be reached from `roots`, roots included. */
export function reachable(sources: readonly Source[], roots: readonly string[]): Set<string> {
  const edges = new Map(sources.map((source) => [source.name, source.imports]));
  const seen = new Set<string>();
  const open = [...roots];
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    if (seen.has(name)) continue;
    seen.add(name);
    open.push(...(edges.get(name) ?? []));
  }
  return seen;
}

/** One cycle as the names along it, or null. Depth-first; a name met again on the present path closes a cycle. */
export function findCycle(sources: readonly Source[]): string[] | null {
  const edges = new Map(sources.map((source) => [source.name, source.imports]));
  const done = new Set<string>();
  const trail: string[] = [];
  const walk = (name: string): string[] | null => {
    const at = trail.indexOf(name);
    if (at >= 0) return [...trail.slice(at), name];
    if (done.has(name)) return null;
    trail.push(name);
    for (const next of edges.get(name) ?? []) {
      const cycle = walk(next);
      if (cycle) return cycle;
    }
    trail.pop();
    done.add(name);
    return null;
  };
  for (const source of sources) {
    const cycle = walk(source.name);
    if (cycle) return cycle;
  }
  return null;
}

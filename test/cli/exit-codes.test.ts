/** Exit code 70 says "a bug in this program": no problem that is expected ends with it. */
import { readdirSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import ts from 'typescript';
import { expect, test } from 'vitest';
import { exitCodeFor, exitCodes } from '../../src/fatal.ts';
import { nbdError } from '../../src/nbd/constants.ts';
import { wireCodes } from '../../src/wire/codes.ts';
import { rejectReasons } from '../../src/wire/rejected.ts';

const source = path.resolve(import.meta.dirname, '../../src');

/** Every code that is written out where a problem is made, also where one of two is chosen. */
function codesIn(text: string): string[] {
  const codes: string[] = [];
  const literals = (node: ts.Node): void => {
    if (ts.isStringLiteral(node)) codes.push(node.text);
    // What is compared with is no code.
    if (ts.isConditionalExpression(node)) [node.whenTrue, node.whenFalse].forEach(literals);
  };
  const visit = (node: ts.Node): void => {
    const [code] = ts.isNewExpression(node) && node.expression.getText() === 'Problem' ? (node.arguments ?? []) : [];
    if (code) literals(code);
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile('made.ts', text, ts.ScriptTarget.ESNext, true));
  return codes;
}

test('codes are found, on the same line or not, and where one of two is chosen', () => {
  const text =
    "new Problem('a', 'x'); new Problem(\n'b', 'y'); new Problem(z === 'no' ? 'c' : 'd', 'e'); new Other('f');";
  expect(codesIn(text)).toEqual(['a', 'b', 'c', 'd']);
});

test('no problem but `internal` is a bug in this program', () => {
  const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
  const codes = new Set(files.flatMap((name) => codesIn(readFileSync(path.join(source, name), 'utf8'))));
  expect(codes.size).toBeGreaterThan(40);
  for (const code of [...Object.keys(wireCodes), ...Object.keys(nbdError), ...rejectReasons]) codes.add(code);
  expect([...codes].filter((code) => exitCodeFor(code) === exitCodes.internal.code)).toEqual(['internal']);
});

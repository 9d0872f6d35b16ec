/**
 * Length as a ratchet. Limits are 400 lines for a file, 60 for a function; what is longer stands in `ratchet.json` with its
 * length, and may only get shorter: grown is a fault, and so is an entry that is larger than the truth.
 */
import ts from 'typescript';

export const limits = { fileLines: 400, functionLines: 60 } as const;

export interface Ratchet {
  readonly fileLines: Readonly<Record<string, number>>;
  readonly functionLines: Readonly<Record<string, number>>;
}

type WithBody = ts.FunctionLikeDeclaration & { readonly body: ts.Node };

function hasBody(node: ts.Node): node is WithBody {
  return ts.isFunctionLike(node) && 'body' in node && node.body !== undefined;
}

/** A list of tests (the callback of `describe`, a shared suite) is not a function of its own; the tests in it are. */
function isSuite(node: WithBody): boolean {
  if (ts.isCallExpression(node.parent) && /^describe\b/.test(node.parent.expression.getText())) return true;
  const statements = ts.isBlock(node.body) ? node.body.statements : [];
  return statements.some((one) => ts.isExpressionStatement(one) && /^(?:describe|it)\b/.test(one.expression.getText()));
}

function nameOf(node: WithBody): string {
  if (node.name) return node.name.getText();
  if (ts.isConstructorDeclaration(node)) return 'constructor';
  const parent = node.parent;
  if (
    (ts.isVariableDeclaration(parent) || ts.isPropertyAssignment(parent)) &&
    !ts.isObjectBindingPattern(parent.name)
  ) {
    return parent.name.getText();
  }
  if (ts.isCallExpression(parent)) {
    const title = parent.arguments.find((argument) => ts.isStringLiteralLike(argument));
    return `${parent.expression.getText().split('\n')[0] ?? ''}(${title ? title.text : '…'})`;
  }
  return 'anonymous';
}

/** Lines of every function, by name; of several with one name the longest. */
export function functionLines(syntax: ts.SourceFile): Map<string, number> {
  const found = new Map<string, number>();
  const visit = (node: ts.Node): void => {
    if (hasBody(node) && !isSuite(node)) {
      const first = syntax.getLineAndCharacterOfPosition(node.getStart()).line;
      const lines = syntax.getLineAndCharacterOfPosition(node.end).line - first + 1;
      const name = nameOf(node);
      found.set(name, Math.max(lines, found.get(name) ?? 0));
    }
    ts.forEachChild(node, visit);
  };
  visit(syntax);
  return found;
}

export function fileLines(text: string): number {
  return text.split('\n').length - (text.endsWith('\n') ? 1 : 0);
}

/** Compares lengths with a limit and what the ratchet allows. */
export function lengthFaults(
  measured: ReadonlyMap<string, number>,
  limit: number,
  ratchet: Readonly<Record<string, number>>,
): string[] {
  const faults: string[] = [];
  for (const [name, lines] of measured) {
    const most = Math.max(limit, ratchet[name] ?? 0);
    if (lines > most) faults.push(`${name}: ${lines} lines, at most ${most}`);
  }
  for (const [name, lines] of Object.entries(ratchet)) {
    const now = measured.get(name) ?? 0;
    if (now <= limit) faults.push(`${name}: remove it from the ratchet, it has ${now} lines`);
    else if (now < lines) faults.push(`${name}: lower the ratchet from ${lines} to ${now}`);
  }
  return faults;
}

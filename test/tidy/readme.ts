/** The commands a Markdown file promises in its `sh` code blocks, and what of them does not exist. */
import type { Command } from 'commander';

/** Command lines of the `sh` blocks: continuation lines joined, comments and prompts removed. */
export function commandLines(markdown: string): string[] {
  const blocks = [...markdown.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map((match) => match[1] ?? '');
  return blocks
    .flatMap((block) => block.replace(/\\\n/g, ' ').split('\n'))
    .map((line) => line.replace(/(^|\s)#.*$/, '').replace(/^\s*\$\s+/, ''))
    .filter((line) => line.trim() !== '');
}

/** `tidemark a b --c`: the subcommands and options that the program does not know. */
function tidemarkFaults(words: readonly string[], program: Command): string[] {
  let command = program;
  const lineage = [program];
  const faults: string[] = [];
  for (const word of words) {
    if (/^[|;&><]/.test(word)) break;
    if (word.startsWith('--')) {
      const long = word.split('=')[0];
      if (long === '--help' || long === '--version') continue;
      if (!lineage.some((one) => one.options.some((option) => option.long === long)))
        faults.push(`tidemark ${command.name()}: no option ${word}`);
    } else if (command.commands.length > 0) {
      const next = command.commands.find((one) => one.name() === word);
      if (!next) return [...faults, `tidemark: no command ${word}`];
      command = next;
      lineage.push(next);
    }
  }
  return faults;
}

export interface Known {
  readonly npmScripts: ReadonlySet<string>;
  /** Executable files, as paths from the root. */
  readonly executables: ReadonlySet<string>;
  readonly program: Command;
}

export function readmeFaults(markdown: string, known: Known): string[] {
  const faults: string[] = [];
  for (const line of commandLines(markdown)) {
    for (const [, script = ''] of line.matchAll(/\bnpm run (?:--?[\w-]+ )*([\w:-]+)/g)) {
      if (!known.npmScripts.has(script)) faults.push(`npm run ${script}: no such script`);
    }
    for (const [, file = ''] of line.matchAll(/(?:^|\s|\.\/)(scripts\/[\w.-]+)/g)) {
      if (!known.executables.has(file)) faults.push(`${file}: no such executable`);
    }
    const call = /(?:^|\s|\/)tidemark(?: --)?((?:\s+\S+)+)\s*$/.exec(line);
    if (call) faults.push(...tidemarkFaults((call[1] ?? '').trim().split(/\s+/), known.program));
  }
  return faults;
}

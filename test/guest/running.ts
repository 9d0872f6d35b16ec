/** A guest that runs: a process, and what it says on its console, line by line. */
import { spawn, type ChildProcess } from 'node:child_process';

export class RunningGuest {
  /** Everything it said. */
  console = '';
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;

  /**
   * The console is the program's standard output.
   * @param hear is called with each whole line of the console. @param complain with what QEMU itself says.
   */
  constructor(
    program: string,
    words: readonly string[],
    hear: (line: string) => void,
    complain: (text: string) => void,
  ) {
    this.#child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] });
    const kill = (): void => void this.#child.kill('SIGKILL');
    process.once('exit', kill);
    let line = '';
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      this.console += chunk.toString();
      const lines = (line + chunk.toString()).split(/\r?\n/);
      line = lines.pop() ?? '';
      for (const each of lines) hear(each);
    });
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      complain(chunk.toString());
    });
    this.#ended = new Promise((resolve) => {
      this.#child.on('close', () => {
        process.off('exit', kill);
        resolve();
      });
    });
  }

  /** Pulls the plug. */
  async stop(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }
}

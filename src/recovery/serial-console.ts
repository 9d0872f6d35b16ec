/** What is heard on a machine's serial console: the end of it, and whoever waits for a text. Its size is bounded, whatever the machine says. */
import type { Readable } from 'node:stream';
import { limits } from '../limits.ts';

const { boot } = limits.recovery;

/** What a terminal takes for a command, not for text (ECMA-48). */
const controlSequence = new RegExp(String.raw`\u001b(?:\[[0-9;?=]*[A-Za-z]|c)`, 'g');

export class SerialConsole {
  #pieces: string[] = [];
  #length = 0;
  /** Long enough for a text that comes in two pieces, and the line it is on. */
  #recent = '';
  #listener: (() => void) | null = null;

  constructor(output: Readable) {
    output.setEncoding('utf8');
    output.on('data', (piece: string) => {
      this.#pieces.push(piece);
      this.#length += piece.length;
      this.#recent = (this.#recent + piece).slice(-(piece.length + boot.probeTextMax + boot.lineCharsShown));
      if (this.#length > 2 * boot.consoleCharsMax) this.#shorten();
      this.#listener?.();
    });
  }

  /** The last `consoleCharsMax` characters. */
  get text(): string {
    return this.#pieces.join('').slice(-boot.consoleCharsMax);
  }

  /** Its last lines with something on them. */
  get lastLines(): string[] {
    const lines = this.text.replaceAll(controlSequence, '').split(/[\r\n]+/);
    return lines
      .filter((line) => line.trim() !== '')
      .slice(-boot.lastLines)
      .map((line) => line.slice(0, boot.lineCharsShown));
  }

  /** Resolves with the line that holds the text, which has to come after this call; for one caller. */
  heard(text: string): Promise<string> {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.#listener = () => {
      const line = this.#recent.split(/[\r\n]+/).find((each) => each.includes(text));
      if (line === undefined) return;
      this.#listener = null;
      resolve(line.replaceAll(controlSequence, '').trim());
    };
    return promise;
  }

  #shorten(): void {
    const { text } = this;
    this.#pieces = [text];
    this.#length = text.length;
  }
}

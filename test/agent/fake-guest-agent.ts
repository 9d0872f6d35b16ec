/**
 * A small real guest agent: JSON lines over a Unix socket, one command after another whatever connection they came by, answers to whoever is
 * connected when they are ready, a parser that a byte 0xFF resets. `meets` decides what becomes of a command.
 */
import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';

/** `lost`: it is done, and the connection breaks before the answer; `killed`: it is not done, and the connection breaks. */
export type Fate = 'done' | 'refused' | 'lost' | 'killed' | { readonly answers: string };

interface Request {
  readonly execute: string;
  readonly arguments?: { readonly id: number };
}

export class FakeGuestAgent {
  readonly socketPath: string;
  /** Everything executed, in order. */
  readonly executed: string[] = [];
  fileSystems = 3;
  /** How many are frozen now. */
  frozen = 0;
  /** Effects, not requests. */
  freezes = 0;
  thaws = 0;
  /** Bytes of an earlier conversation; they come before the answer to the sync. */
  stale = '';
  meets: (command: string) => Fate | Promise<Fate> = () => 'done';
  readonly #server: Server;
  #client: Socket | null = null;
  #half = '';
  #work: Promise<void> = Promise.resolve();

  private constructor(socketPath: string) {
    this.socketPath = socketPath;
    this.#server = createServer((socket) => {
      this.#client = socket;
      socket.setEncoding('latin1');
      socket.on('error', () => undefined);
      socket.on('data', (text: string) => {
        this.#receive(text);
      });
      socket.write(Buffer.from(this.stale, 'latin1'));
    });
  }

  static async listening(socketPath: string): Promise<FakeGuestAgent> {
    const fake = new FakeGuestAgent(socketPath);
    await new Promise<void>((resolve) => {
      fake.#server.listen(socketPath, resolve);
    });
    return fake;
  }

  disconnect(): void {
    this.#client?.destroy();
  }

  close(): void {
    this.#server.close();
    this.disconnect();
    rmSync(this.socketPath, { force: true });
  }

  #receive(text: string): void {
    for (const character of text) {
      if (character === '\xff') this.#half = '';
      else if (character !== '\n') this.#half += character;
      else {
        const line = this.#half;
        this.#half = '';
        this.#work = this.#work.then(() => this.#execute(line));
      }
    }
  }

  async #execute(line: string): Promise<void> {
    const request = JSON.parse(line) as Request;
    const { execute: command } = request;
    const fate = await this.meets(command);
    if (typeof fate === 'object') {
      this.#client?.write(fate.answers);
      return;
    }
    if (fate === 'killed') {
      this.disconnect();
      return;
    }
    if (fate === 'refused') {
      this.#answer({ error: { class: 'GenericError', desc: `${command} failed` } }, '');
      return;
    }
    this.executed.push(command);
    const result = this.#effect(command);
    if (fate === 'lost') this.disconnect();
    else if (command === 'guest-sync-delimited') this.#answer({ return: request.arguments?.id }, '\xff');
    else this.#answer({ return: result }, '');
  }

  #effect(command: string): unknown {
    const before = this.frozen;
    switch (command) {
      case 'guest-fsfreeze-freeze':
        this.frozen = this.fileSystems;
        if (this.frozen > 0) this.freezes += 1;
        return this.frozen;
      case 'guest-fsfreeze-thaw':
        this.frozen = 0;
        if (before > 0) this.thaws += 1;
        return before;
      default:
        return before > 0 ? 'frozen' : 'thawed';
    }
  }

  #answer(answer: unknown, before: string): void {
    this.#client?.write(Buffer.from(`${before}${JSON.stringify(answer)}\n`, 'latin1'));
  }
}

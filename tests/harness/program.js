// One process that the tests started: its output is kept, it is waited for by what it prints or answers, and ended by its own handle.

import { spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { until, within } from './scenario.js';

/** Output past this is dropped from the middle of the report. */
const REPORT_CHARACTERS = 20_000;
/** Generous: a program that needs longer does not end. */
const EXIT_DEADLINE_MS = 60_000;

// Whatever happens to the tests, what they started does not outlive them.
/** @type {Set<import('node:child_process').ChildProcess>} */
const running = new Set();
process.on('exit', () => { for (const child of running) child.kill('SIGKILL'); });
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) process.on(signal, () => process.exit(1));

export class Program {
  output = '';
  #name;
  #child;
  #exited;
  #closed = false;

  /**
   * @param {string} command
   * @param {string[]} args
   * @param {{ env?: Record<string, string>, cwd?: string }} [options]
   */
  constructor(command, args, { env, cwd } = {}) {
    this.#name = `${command} ${args.join(' ')}`;
    this.#child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    const keep = (/** @type {Buffer} */ chunk) => { this.output += chunk.toString(); };
    this.#child.stdout.on('data', keep);
    this.#child.stderr.on('data', keep);
    this.#child.on('error', (error) => { this.output += `could not be started: ${error.message}\n`; });
    running.add(this.#child);
    this.#exited = once(this.#child, 'close').catch(() => []).then(() => {
      this.#closed = true;
      running.delete(this.#child);
    });
  }

  get pid() {
    return this.#child.pid ?? 0;
  }

  /** False once it has ended and all that it printed is here. */
  get running() {
    return this.#child.pid !== undefined && !this.#closed;
  }

  get exitCode() {
    return this.#child.exitCode;
  }

  /** Waits until the output matches. @param {RegExp} pattern */
  printed(pattern) {
    return this.#whileRunning(`output of ${pattern}`, () => pattern.exec(this.output));
  }

  /** Waits until `url` answers with success. @param {string} url */
  answers(url) {
    return this.#whileRunning(`an answer of ${url}`, () => fetch(url).then((response) => response.ok, () => false));
  }

  /** Waits for the exit; returns the exit code, null if a signal ended it. */
  async exit() {
    await within(EXIT_DEADLINE_MS, this.#exited);
    return this.#child.exitCode;
  }

  /** Ends the process. @param {NodeJS.Signals} [signal] */
  async kill(signal = 'SIGKILL') {
    if (this.running) this.#child.kill(signal);
    await this.#exited;
  }

  /** Resident memory in bytes: now, and the highest since `resetPeak`. */
  async memory() {
    const status = await readFile(`/proc/${this.pid}/status`, 'utf8');
    const field = (/** @type {string} */ name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024;
    return { now: field('VmRSS'), peak: field('VmHWM') };
  }

  /** Makes the highest resident memory start again from now. */
  async resetPeak() {
    await writeFile(`/proc/${this.pid}/clear_refs`, '5');
  }

  report() {
    const { output } = this;
    const half = REPORT_CHARACTERS / 2;
    const shown = output.length <= REPORT_CHARACTERS ? output : `${output.slice(0, half)}\n[...]\n${output.slice(-half)}`;
    return `$ ${this.#name}\n${shown}${this.running ? '(still running)' : `(ended: ${this.#child.exitCode ?? this.#child.signalCode})`}`;
  }

  /** @template T @param {string} what @param {() => Promise<T> | T} ask */
  #whileRunning(what, ask) {
    return until(what, async () => {
      // Whether it runs is asked first: what it printed before it ended counts.
      const { running: wasRunning } = this;
      const answer = await ask();
      if (!answer && !wasRunning) throw new Error(`ended before ${what}:\n${this.report()}`);
      return answer;
    });
  }
}

// A scenario's stage: it starts programs, proxies and browsers, and ends every one of them when the scenario is over, by its own handle.
// When a scenario fails it prints the logs of all that it had started. It never ends a process that it did not start.

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Program } from './program.js';

/** Generous: a scenario that needs longer hangs. */
const SCENARIO_DEADLINE_MS = 180_000;

/**
 * A test with a stage of its own.
 * @param {string} name a sentence
 * @param {(stage: Stage) => Promise<void>} body
 */
export function scenario(name, body) {
  test(name, async (t) => {
    const stage = new Stage(t);
    try {
      // Not the runner's own timeout: after that nothing would be ended.
      await within(SCENARIO_DEADLINE_MS, body(stage));
      for (const check of stage.checks) check();
    } catch (error) {
      await stage.report();
      throw error;
    } finally {
      await stage.end();
    }
  });
}

export class Stage {
  /** What must hold of every scenario at its end. @type {(() => void)[]} */
  checks = [];
  /** The relays that it started. @type {{ metrics: () => Promise<import('./metrics.js').Metrics> }[]} */
  relays = [];
  /** @type {(() => Promise<unknown>)[]} */
  #endings = [];
  /** @type {(() => Promise<string> | string)[]} */
  #reports = [];
  /** @type {import('node:test').TestContext} */
  #context;

  /** @param {import('node:test').TestContext} context */
  constructor(context) {
    this.#context = context;
  }

  /** Says a measured figure beside the test's result. @param {string} text */
  say(text) {
    this.#context.diagnostic(text);
  }

  /** Has `ending` run when the scenario is over; the last registered runs first. @param {() => Promise<unknown>} ending */
  atEnd(ending) {
    this.#endings.push(ending);
  }

  /** Has `report` printed if the scenario fails. @param {() => Promise<string> | string} report */
  onFailure(report) {
    this.#reports.push(report);
  }

  /**
   * Starts a program; it is killed at the end.
   * @param {string} command
   * @param {string[]} args
   * @param {{ env?: Record<string, string> }} [options]
   */
  program(command, args, options) {
    const program = new Program(command, args, options);
    this.atEnd(() => program.kill());
    this.onFailure(() => program.report());
    this.checks.push(() => assert.doesNotMatch(program.output, /panicked at/));
    return program;
  }

  /** A temporary folder, removed at the end. */
  async folder() {
    const folder = await mkdtemp(join(tmpdir(), 'signaling-tests-'));
    this.atEnd(() => rm(folder, { recursive: true, force: true }));
    return folder;
  }

  /** A temporary file with the given content. @param {string} name @param {string} content */
  async file(name, content) {
    const path = join(await this.folder(), name);
    await writeFile(path, content, { mode: 0o600 });
    return path;
  }

  async report() {
    for (const report of this.#reports) {
      const text = await Promise.resolve(report()).catch((error) => `no report: ${error}`);
      process.stdout.write(`${text.replace(/^/gm, '    | ')}\n`);
    }
  }

  async end() {
    for (const ending of this.#endings.reverse()) {
      await ending().catch((error) => process.stdout.write(`while ending: ${error}\n`));
    }
  }
}

/** Waits for a promise, but no longer than a time. @template T @param {number} deadline milliseconds @param {Promise<T>} promise */
export async function within(deadline, promise) {
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`not done within ${deadline} ms`)), deadline); });
  try {
    return await /** @type {Promise<T>} */ (Promise.race([promise, late]));
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Asks again until the answer is neither null, undefined nor false, and returns it. The deadline is for liveness only; nothing is timed by it.
 * @template T
 * @param {string} what completes the sentence "waited for ..."
 * @param {() => Promise<T> | T} ask
 * @param {{ deadline?: number, pause?: number }} [options] milliseconds
 * @returns {Promise<NonNullable<T>>}
 */
export async function until(what, ask, { deadline = 45_000, pause = 100 } = {}) {
  const end = Date.now() + deadline;
  for (;;) {
    const answer = await ask();
    if (answer !== null && answer !== undefined && answer !== false) return answer;
    if (Date.now() > end) assert.fail(`waited ${deadline} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

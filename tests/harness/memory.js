// How much a process grows while something is done to it.

import assert from 'node:assert/strict';

const MIB = 1024 * 1024;

/**
 * Starts to watch resident memory. The function returned checks that its peak since then is within `bound` bytes of where it began.
 * @param {import('./scenario.js').Stage} stage
 * @param {import('./program.js').Program} program
 */
export async function watchMemory(stage, program) {
  await program.resetPeak();
  const before = (await program.memory()).now;
  return async (/** @type {number} */ bound) => {
    const grown = (await program.memory()).peak - before;
    const mib = (/** @type {number} */ bytes) => `${(bytes / MIB).toFixed(1)} MiB`;
    stage.say(`resident memory grew by at most ${mib(grown)} from ${mib(before)}; bound ${mib(bound)}`);
    assert.ok(grown < bound, `resident memory grew by ${mib(grown)}, more than ${mib(bound)}`);
  };
}

/**
 * Clock, timers and chance: everything that a test must be able to hold in its hand.
 *
 * @typedef {{
 *   now: () => number,
 *   setTimeout: (run: () => void, ms: number) => any,
 *   clearTimeout: (timer: any) => void,
 *   random: () => number,
 * }} Env
 */

/** @type {Env} */
export const realEnv = {
  now: () => Date.now(),
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (timer) => clearTimeout(timer),
  random: () => Math.random(),
};

/**
 * Waits.
 *
 * @param {Env} env
 * @param {number} ms
 * @returns {Promise<void>}
 */
export function wait(env, ms) {
  return new Promise((resolve) => env.setTimeout(resolve, ms));
}

/** Time in the test's hand, and chance from a seed. */

/** Lets everything happen that is waiting for nothing but its turn. */
export function settle() {
  return new Promise((resolve) => setImmediate(resolve));
}

/** @returns {import("../src/env.js").Env & { advance: (ms: number) => Promise<void>, set: (ms: number) => void, timers: number }} */
export function fakeClock({ now = 1_800_000_000_000, random = () => 0.5 } = {}) {
  let next = 1;
  let shift = 0;
  const timers = new Map();
  const due = (until) =>
    [...timers].filter(([, timer]) => timer.at <= until).sort(([a, x], [b, y]) => x.at - y.at || a - b)[0];
  return {
    now: () => now + shift,
    /** Sets the clock by so much; timers do not mind. */
    set: (ms) => void (shift += ms),
    random,
    setTimeout(run, ms) {
      timers.set(next, { at: now + Math.max(0, ms), run });
      return next++;
    },
    clearTimeout: (id) => void timers.delete(id),
    get timers() {
      return timers.size;
    },
    async advance(ms) {
      const until = now + ms;
      await settle();
      for (let timer = due(until); timer; timer = due(until)) {
        timers.delete(timer[0]);
        now = Math.max(now, timer[1].at);
        timer[1].run();
        await settle();
      }
      now = until;
      await settle();
    },
  };
}

/** Random numbers that a seed brings again (mulberry32). */
export function chance(seed) {
  let state = seed >>> 0;
  const number = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    number,
    /** An integer from `from` to `to`, both included. */
    between: (from, to) => from + Math.floor(number() * (to - from + 1)),
    /** Whether something happens that happens in `share` of all cases. */
    happens: (share) => number() < share,
    pick: (list) => list[Math.floor(number() * list.length)],
  };
}

/** Runs a test for many seeds; `SEED=n` runs one of them again. */
export async function eachSeed(count, run) {
  const only = process.env.SEED;
  const seeds = only === undefined ? Array.from({ length: count }, (_, seed) => seed) : [Number(only)];
  for (const seed of seeds) {
    try {
      await run(chance(seed), seed);
    } catch (error) {
      throw new Error(`SEED=${seed} runs it again: ${error.message}`, { cause: error });
    }
  }
}

/**
 * Keeps below the rate that a server takes: a bucket that fills at `rate` a second and holds `burst`.
 *
 * A fifth of both is left over: the server's clock is another one, and frames that were on their way arrive together.
 *
 * @param {import("./env.js").Env} env
 * @param {{ rate: number, burst: number }} limits frames
 * @returns {() => number} notes a frame; in how many milliseconds it may go out
 */
export function pace(env, { rate, burst }) {
  const interval = 1000 / (0.8 * rate);
  const ahead = interval * Math.max(0, Math.floor(0.8 * burst) - 1);
  let full = -Infinity;
  let last = -Infinity;
  return () => {
    const now = env.now();
    // The clock was set back: the bucket goes with it, or nothing would go out until the clock is where it was.
    if (now < last) full -= last - now;
    last = now;
    const begin = Math.max(full, now);
    full = begin + interval;
    return Math.max(0, Math.ceil(begin - ahead - now));
  };
}

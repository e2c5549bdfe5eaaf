/**
 * How long to wait before the next try: full jitter, so that the clients of a node that died do not come back all at once.
 *
 * @param {{ first: number, most: number, random?: () => number }} times milliseconds
 */
export function backoff({ first, most, random = Math.random }) {
  let tries = 0;
  return {
    /** @returns {number} milliseconds: anything between 0 and the bound, which doubles from try to try. */
    next() {
      const bound = Math.min(most, first * 2 ** Math.min(tries, 30));
      tries += 1;
      return Math.round(random() * bound);
    },
    /** The next wait is short again. */
    reset() {
      tries = 0;
    },
  };
}

/**
 * Where a client keeps what must outlive it. `localStorage` and `sessionStorage` fit as they are; so does anything with these
 * three methods, which may also return promises.
 *
 * @typedef {{
 *   getItem: (key: string) => string | null | Promise<string | null>,
 *   setItem: (key: string, value: string) => void | Promise<void>,
 *   removeItem: (key: string) => void | Promise<void>,
 * }} Storage
 */

/**
 * Keeps things as long as the page lives.
 *
 * @returns {Storage}
 */
export function memoryStorage() {
  /** @type {Map<string, string>} */
  const items = new Map();
  return {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => void items.set(key, value),
    removeItem: (key) => void items.delete(key),
  };
}

/**
 * Unread is derived, never counted: the ordinal of the head less that of what was read.
 *
 * @typedef {import("./wire.js").Mark} Mark
 */

/**
 * How many records count as unread.
 *
 * @param {{ head: Mark, read: Mark, joined: Mark, left?: Mark, settings: { cleared: Mark } }} conversation
 *   `joined.ordinal` is that of the record *before* the joining one
 * @returns {number}
 */
export function unread({ head, read, joined, left, settings }) {
  const top = left ? Math.min(head.ordinal, left.ordinal) : head.ordinal;
  const base = Math.max(read.ordinal, joined.ordinal, settings.cleared.ordinal);
  return Math.max(0, top - base);
}

/**
 * The further of two marks.
 *
 * @param {Mark} a
 * @param {Mark} b
 * @returns {Mark}
 */
export function further(a, b) {
  return b.seq > a.seq ? { seq: b.seq, ordinal: b.ordinal } : a;
}

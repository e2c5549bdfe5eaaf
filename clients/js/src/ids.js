/**
 * Client message ids: UUIDs of version 7 (RFC 9562).
 *
 * They name one message for ever, so they must never repeat; a server whose memory of ids is limited tells new messages from
 * retries by the time in them. Hence the clock is the server's, as far as it is known.
 */

const COUNTER_MAX = 0xfff;

/**
 * Fills bytes with random numbers. Mini-programs have no `crypto`; there 62 bits of `Math.random` beside a time and a counter are
 * still enough to tell the messages of one sender apart. Ids are no secrets.
 *
 * @param {Uint8Array} bytes
 * @returns {Uint8Array} the same
 */
export function fillRandom(bytes) {
  const crypto = globalThis.crypto;
  if (crypto?.getRandomValues) return crypto.getRandomValues(bytes);
  for (let index = 0; index < bytes.length; index += 1) bytes[index] = Math.floor(Math.random() * 256);
  return bytes;
}

/**
 * A source of ids that only ever grow, also when the clock stands still or runs backwards.
 *
 * @param {() => number} now milliseconds since 1970
 * @param {(bytes: Uint8Array) => Uint8Array} [random]
 * @returns {() => string} the next id
 */
export function idSource(now, random = fillRandom) {
  let time = 0;
  let counter = COUNTER_MAX;
  return () => {
    const bytes = random(new Uint8Array(16));
    const present = Math.floor(now());
    if (present > time) {
      time = present;
      // Half of the counter's range is left to count on within this millisecond.
      counter = ((bytes[6] << 8) | bytes[7]) & (COUNTER_MAX >> 1);
    } else if (counter < COUNTER_MAX) {
      counter += 1;
    } else {
      time += 1;
      counter = 0;
    }
    return format(time, counter, bytes);
  };
}

/** @param {number} time @param {number} counter @param {Uint8Array} bytes the last 8 are used */
function format(time, counter, bytes) {
  const stamp = time.toString(16).padStart(12, "0");
  const version = (0x7000 | counter).toString(16);
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const tail = Array.from(bytes.subarray(8), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `${stamp.slice(0, 8)}-${stamp.slice(8)}-${version}-${tail.slice(0, 4)}-${tail.slice(4)}`;
}

/**
 * Why something did not succeed.
 *
 * `code` is the server's stable code, or one of the client's own: `timeout`, `disconnected`, `closed`, `outbox_full`.
 */
export class ChatError extends Error {
  /**
   * @param {string} code stable, for programs
   * @param {string} message for people
   * @param {{ transient?: boolean, unknown?: boolean, retryAfter?: number, serverTime?: number }} [more]
   */
  constructor(code, message, more = {}) {
    super(message);
    this.name = "ChatError";
    this.code = code;
    /** Whether the same call may succeed later without anybody's doing. */
    this.transient = more.transient ?? false;
    /** Whether it may have been done all the same; the same call with the same ids is then safe to repeat. */
    this.unknown = more.unknown ?? false;
    /** Not to be tried again earlier than after so many milliseconds, if the server said so. */
    this.retryAfter = more.retryAfter ?? null;
    /** The server's time, if it said so. */
    this.serverTime = more.serverTime ?? null;
  }
}

/** No answer came: it may have happened. */
export function timedOut(/** @type {string} */ what) {
  return new ChatError("timeout", `no answer to ${what} in time`, { transient: true, unknown: true });
}

/** The connection ended before the answer: it may have happened. */
export function disconnected(/** @type {string} */ what) {
  const message = `the connection ended before the answer to ${what}`;
  return new ChatError("disconnected", message, { transient: true, unknown: true });
}

/** The client was closed, by the application or for good by the server. */
export function closed(message = "the client is closed") {
  return new ChatError("closed", message, { unknown: true });
}

/** Too much waits already. */
export function overloaded(/** @type {string} */ message) {
  return new ChatError("overloaded", message, { transient: true });
}

/** Over a limit. */
export function tooLarge(/** @type {string} */ message) {
  return new ChatError("too_large", message);
}

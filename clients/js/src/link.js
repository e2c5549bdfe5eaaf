/**
 * One socket: requests and their answers.
 *
 * @typedef {{
 *   readyState: number,
 *   onopen: ((event: any) => void) | null,
 *   onmessage: ((event: { data: any }) => void) | null,
 *   onclose: ((event: { code: number, reason: string }) => void) | null,
 *   onerror: ((event: any) => void) | null,
 *   send: (text: string) => void,
 *   close: (code?: number, reason?: string) => void,
 * }} Socket the part of a browser's `WebSocket` that is used
 * @typedef {import("./env.js").Env} Env
 */

import { disconnected, overloaded, timedOut, tooLarge } from "./error.js";
import { decode, encode, utf8Length } from "./wire.js";

const OPEN = 1;
/** How many requests may wait for their answers at once. */
const PENDING = 1024;

export class Link {
  #socket;
  #env;
  #on;
  #nextId = 1;
  /** @type {Map<number, { op: string, resolve: (value: any) => void, reject: (error: Error) => void, timer: any }>} */
  #pending = new Map();
  #ended = false;

  /**
   * @param {Socket} socket
   * @param {Env} env
   * @param {{
   *   open: () => void,
   *   event: (name: string, event: any) => void,
   *   end: (code: number, reason: string) => void,
   * }} on `end` comes once, last
   */
  constructor(socket, env, on) {
    this.#socket = socket;
    this.#env = env;
    this.#on = on;
    socket.onopen = () => this.#ended || on.open();
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#end(code, reason);
    // Every error is followed by a close, which says more.
    socket.onerror = () => {};
  }

  /**
   * Asks the server.
   *
   * @param {import("./wire.js").Op} asked
   * @param {{ timeout: number, frameBytes: number }} limits milliseconds, bytes
   * @returns {Promise<any>} what the server answered
   */
  request(asked, { timeout, frameBytes }) {
    return new Promise((resolve, reject) => {
      if (!this.#isOpen()) return reject(disconnected(asked.op));
      if (this.#pending.size >= PENDING) return reject(overloaded("too many requests wait for an answer"));
      const id = this.#nextId;
      const frame = encode(id, asked);
      if (utf8Length(frame) > frameBytes) return reject(tooLarge(`a frame may have at most ${frameBytes} bytes`));
      this.#nextId += 1;
      const timer = this.#env.setTimeout(() => this.#take(id)?.reject(timedOut(asked.op)), timeout);
      this.#pending.set(id, { op: asked.op, resolve, reject, timer });
      this.#socket.send(frame);
    });
  }

  /** Tells the server what it does not answer. */
  tell(/** @type {import("./wire.js").Op} */ told) {
    if (this.#isOpen()) this.#socket.send(encode(undefined, told));
  }

  /** Ends the link; who waits hears of it at once, whatever becomes of the socket. */
  close(code = 1000, reason = "") {
    if (this.#ended) return;
    this.#socket.close(code, reason);
    this.#end(code, reason);
  }

  #isOpen() {
    return !this.#ended && this.#socket.readyState === OPEN;
  }

  #receive(/** @type {any} */ data) {
    if (this.#ended) return;
    const frame = decode(data);
    if (frame === null) return this.close(1000, "unreadable frame");
    if (frame.kind === "event") return this.#on.event(frame.name, frame.event);
    if (frame.kind === "unknown") return;
    // An error that belongs to no request is the answer to a frame that the server could not read: none of ours.
    const waiting = frame.re === null ? null : this.#take(frame.re);
    if (frame.kind === "ok") waiting?.resolve(frame.ok);
    else waiting?.reject(frame.error);
  }

  #take(/** @type {number} */ id) {
    const waiting = this.#pending.get(id);
    if (!waiting) return null;
    this.#pending.delete(id);
    this.#env.clearTimeout(waiting.timer);
    return waiting;
  }

  #end(/** @type {number} */ code, /** @type {string} */ reason) {
    if (this.#ended) return;
    this.#ended = true;
    for (const id of [...this.#pending.keys()]) {
      const waiting = this.#take(id);
      waiting?.reject(disconnected(waiting.op));
    }
    this.#on.end(code, reason);
  }
}

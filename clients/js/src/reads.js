/**
 * Read marks that were set here: shown at once, told to the server as soon as it can be told, the furthest of each conversation
 * only.
 */

import { confirmed, reading } from "./conversation.js";
import { ChatError } from "./error.js";
import { Runner } from "./runner.js";
import { op } from "./wire.js";

/** Milliseconds between two marks of a conversation: who reads while others write sends no frame for each message. */
const REST = 1_000;

export class Reads {
  #options;
  #runner;
  /** @type {Set<string>} */
  #waiting = new Set();
  /** @type {Set<string>} */
  #resting = new Set();

  /**
   * @param {{
   *   request: (asked: import("./wire.js").Op) => Promise<any>,
   *   store: import("./store.js").Store,
   *   update: (conversation: import("./conversation.js").Conversation) => void,
   *   env: import("./env.js").Env,
   * }} options
   */
  constructor(options) {
    this.#options = options;
    this.#runner = new Runner(options.env, () => this.#next());
  }

  /** A session began: what was read before is told now. */
  begin() {
    for (const { id, reading } of this.#options.store.list()) if (reading) this.#waiting.add(id);
    this.#runner.go();
  }

  halt() {
    this.#runner.halt();
  }

  /**
   * The user has read a conversation up to a mark.
   *
   * @param {string} id
   * @param {import("./wire.js").Mark} mark
   */
  mark(id, mark) {
    const conversation = this.#options.store.get(id);
    const stands = conversation?.reading ?? conversation?.read;
    if (!conversation || !stands || mark.seq <= stands.seq) return;
    this.#options.update(reading(conversation, mark));
    this.#waiting.add(id);
    this.#runner.nudge();
  }

  #next() {
    for (const id of this.#waiting) if (!this.#resting.has(id)) return () => this.#tell(id);
    return null;
  }

  async #tell(/** @type {string} */ id) {
    this.#waiting.delete(id);
    const wanted = this.#options.store.get(id)?.reading;
    if (!wanted) return;
    this.#rest(id);
    try {
      const { read } = await this.#options.request(op.markRead({ conversation: id, seq: wanted.seq }));
      this.#settle(id, read);
    } catch (error) {
      const refused = error instanceof ChatError && !error.transient && !error.unknown;
      if (refused) return this.#settle(id, wanted);
      this.#waiting.add(id);
      throw error;
    }
  }

  #rest(/** @type {string} */ id) {
    this.#resting.add(id);
    this.#options.env.setTimeout(() => {
      this.#resting.delete(id);
      this.#runner.nudge();
    }, REST);
  }

  #settle(/** @type {string} */ id, /** @type {import("./wire.js").Mark} */ mark) {
    const conversation = this.#options.store.get(id);
    if (conversation) this.#options.update(confirmed(conversation, mark));
  }
}

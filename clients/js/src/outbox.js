/**
 * Messages on their way out. Each keeps its id until the server has acked or refused it; no answer means *unknown* and is asked
 * about again, never *failed*.
 *
 * One of each conversation is on its way at a time, so that they arrive in the order in which they were written, also after a
 * failure.
 *
 * @typedef {{
 *   id: string, conversation: string, type: string, content: string, at: number,
 *   state: "pending" | "sent" | "refused", seq?: number, error?: { code: string, message: string },
 * }} Outgoing
 *   `id` is the message's `client_msg_id`; `at` milliseconds since 1970 here; `sent`: acked, with its place, but the record itself
 *   was not taken yet; `refused`: it is nowhere, `error` says why.
 * @typedef {import("./wire.js").Ack} Ack
 * @typedef {import("./wire.js").WireRecord} WireRecord
 */

import { backoff } from "./backoff.js";
import { wait } from "./env.js";
import { ChatError, closed, overloaded, tooLarge } from "./error.js";

/** Messages that may wait here. */
const ITEMS = 500;
/** Their contents together, in UTF-16 units. */
const UNITS = 1 << 20;
/** Messages on their way at a time. */
const FLYING = 8;
/** How often a server may fail inside before the user is asked. */
const FAILURES = 5;

export class Outbox {
  #options;
  /** @type {Outgoing[]} */
  #items = [];
  /** Conversations with a message on its way, or waiting to be tried again. @type {Set<string>} */
  #busy = new Set();
  /** @type {Map<Outgoing, { resolve: (ack: Ack) => void, reject: (error: Error) => void }>} */
  #waiting = new Map();
  #live = false;
  /** @type {Promise<void> | null} */
  #loading = null;
  /** @type {Promise<void>} */
  #writing = Promise.resolve();

  /**
   * @param {{
   *   send: (item: Outgoing) => Promise<Ack>,
   *   newId: () => string,
   *   clockIs: (time: number) => void,
   *   takenUpTo: (conversation: string) => number,
   *   env: import("./env.js").Env,
   *   storage: import("./storage.js").Storage,
   *   key: string,
   *   changed: (conversation: string) => void,
   *   failed: (error: unknown) => void,
   * }} options `clockIs` hears the server's time, if the ids' clock is ahead of it. `takenUpTo`: the records up to this sequence id
   *   were taken, or will never come.
   */
  constructor(options) {
    this.#options = options;
  }

  /** Reads what was kept: once, and before anything is written over it. */
  load() {
    this.#loading ??= this.#read();
    return this.#loading;
  }

  async #read() {
    try {
      const text = await this.#options.storage.getItem(this.#options.key);
      if (text !== null) this.#items = [...JSON.parse(text), ...this.#items];
    } catch (error) {
      this.#options.failed(error);
    }
  }

  /**
   * What is on its way, oldest first.
   *
   * @param {string} conversation
   * @returns {Outgoing[]}
   */
  list(conversation) {
    return this.#items.filter((item) => item.conversation === conversation).map((item) => ({ ...item }));
  }

  /** Whether this device sent the message, as long as its record was not taken. */
  has(/** @type {string} */ id) {
    return this.#items.some((item) => item.id === id);
  }

  /**
   * Takes a message in.
   *
   * @param {string} conversation
   * @param {string} type
   * @param {string} content
   * @returns {{ id: string, acked: Promise<Ack> }}
   */
  add(conversation, type, content) {
    const units = this.#items.reduce((sum, item) => sum + item.content.length, content.length);
    if (content.length > UNITS) throw tooLarge("the content is too large");
    if (this.#items.length >= ITEMS || units > UNITS) throw overloaded("too many messages wait to be sent");
    const { newId, env } = this.#options;
    /** @type {Outgoing} */
    const item = { id: newId(), conversation, type, content, at: env.now(), state: "pending" };
    this.#items.push(item);
    const acked = new Promise((resolve, reject) => this.#waiting.set(item, { resolve, reject }));
    // Who does not wait for the ack hears of a refusal by the event.
    acked.catch(() => {});
    this.#changed(item);
    this.#pump();
    return { id: item.id, acked: /** @type {Promise<Ack>} */ (acked) };
  }

  /** Sends a refused message again, as a new one. */
  retry(/** @type {string} */ id) {
    const item = this.#items.find((one) => one.id === id && one.state === "refused");
    if (!item) return;
    // One whose fate is unknown must keep its id, or it might come twice.
    if (!item.error || item.error.code !== "internal") item.id = this.#options.newId();
    item.state = "pending";
    delete item.error;
    this.#changed(item);
    this.#pump();
  }

  /** Gives a refused message up. */
  discard(/** @type {string} */ id) {
    const item = this.#items.find((one) => one.id === id && one.state === "refused");
    if (item) this.#remove(item);
  }

  /** A session began. */
  begin() {
    this.#live = true;
    this.#pump();
  }

  /** It ended. */
  halt() {
    this.#live = false;
  }

  /** The client is closed: nobody is answered any more. What waits stays kept. */
  stop() {
    this.halt();
    for (const { reject } of this.#waiting.values()) reject(closed());
    this.#waiting.clear();
  }

  /** A record of the user's own was taken: its message has arrived. */
  taken(/** @type {WireRecord} */ { client_msg_id: id, conversation, seq, created_at }) {
    const item = this.#items.find((one) => one.id === id && one.conversation === conversation);
    if (!item) return;
    this.#settle(item, { conversation, seq, created_at, duplicate: false, level: "logged" });
    this.#remove(item);
  }

  /** Reviews every conversation; not before it is known what was taken. */
  reviewAll() {
    for (const conversation of new Set(this.#items.map((item) => item.conversation))) this.review(conversation);
  }

  /** Sent messages whose records were taken, or will never come, have arrived. */
  review(/** @type {string} */ conversation) {
    const upTo = this.#options.takenUpTo(conversation);
    const gone = this.#items.filter((one) => one.conversation === conversation && one.seq && one.seq <= upTo);
    gone.forEach((item) => this.#remove(item));
  }

  #pump() {
    for (const item of this.#items) {
      if (!this.#live || this.#busy.size >= FLYING) return;
      if (item.state === "pending" && !this.#busy.has(item.conversation)) this.#send(item);
    }
  }

  async #send(/** @type {Outgoing} */ item) {
    const waits = backoff({ first: 500, most: 15_000, random: this.#options.env.random });
    this.#busy.add(item.conversation);
    for (let failures = 0; this.#live && item.state === "pending" && this.#items.includes(item); ) {
      try {
        this.#acked(item, await this.#options.send(item));
      } catch (error) {
        failures += 1;
        const delay = this.#again(item, error, failures, waits);
        if (delay === null) break;
        await wait(this.#options.env, delay);
      }
    }
    this.#busy.delete(item.conversation);
    this.#pump();
  }

  /** In how many milliseconds to try again; null: not by ourselves. */
  #again(
    /** @type {Outgoing} */ item,
    /** @type {any} */ error,
    /** @type {number} */ failures,
    /** @type {{ next: () => number }} */ waits,
  ) {
    if (!(error instanceof ChatError)) return this.#options.failed(error), waits.next();
    if (error.transient) return this.#live ? Math.max(error.retryAfter ?? 0, waits.next()) : 0;
    if (error.code === "closed") return null;
    if (error.code === "client_clock" && failures === 1) return this.#correct(item, error);
    if (error.code === "internal" && failures < FAILURES) return waits.next();
    this.#refused(item, error);
    return null;
  }

  /** The id's time lies ahead of the server's: it was refused, so the message may have another one. */
  #correct(/** @type {Outgoing} */ item, /** @type {ChatError} */ error) {
    if (error.serverTime !== null) this.#options.clockIs(error.serverTime);
    item.id = this.#options.newId();
    this.#changed(item);
    return 0;
  }

  #acked(/** @type {Outgoing} */ item, /** @type {Ack} */ ack) {
    this.#settle(item, ack);
    // The record may have come before the ack.
    if (!this.#items.includes(item)) return;
    item.state = "sent";
    item.seq = ack.seq;
    this.#changed(item);
    this.review(item.conversation);
  }

  #refused(/** @type {Outgoing} */ item, /** @type {ChatError} */ error) {
    if (!this.#items.includes(item)) return;
    item.state = "refused";
    item.error = { code: error.code, message: error.message };
    this.#waiting.get(item)?.reject(error);
    this.#waiting.delete(item);
    this.#changed(item);
  }

  #settle(/** @type {Outgoing} */ item, /** @type {Ack} */ ack) {
    this.#waiting.get(item)?.resolve(ack);
    this.#waiting.delete(item);
  }

  #remove(/** @type {Outgoing} */ item) {
    this.#items = this.#items.filter((one) => one !== item);
    this.#changed(item);
  }

  #changed(/** @type {Outgoing} */ item) {
    this.#options.changed(item.conversation);
    this.#writing = this.#writing.then(() => this.#write());
  }

  async #write() {
    const { storage, key, failed } = this.#options;
    await this.load();
    try {
      if (this.#items.length > 0) await storage.setItem(key, JSON.stringify(this.#items));
      else await storage.removeItem(key);
    } catch (error) {
      failed(error);
    }
  }

  /** Resolves when everything is kept. */
  flush() {
    return this.#writing;
  }

  /** Forgets everything, here and in the storage. */
  async clear() {
    await this.load();
    this.stop();
    this.#items = [];
    await this.flush();
    await this.#write();
  }
}

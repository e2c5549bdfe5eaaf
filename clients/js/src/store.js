/**
 * What outlives the client: cursor, state version, conversations with their marks.
 *
 * Written bit by bit, what changed only, the cursor last: whatever a crash leaves behind is at most a cursor that stands too low,
 * and what comes again is dropped by the marks.
 *
 * @typedef {import("./conversation.js").Conversation} Conversation
 * @typedef {import("./storage.js").Storage} Storage
 */

/** Another one: what was written by an older version is not read. */
const VERSION = 1;
/** Milliseconds in which changes are gathered. */
const GATHER = 50;

export class Store {
  #storage;
  #prefix;
  #env;
  #failed;
  /** @type {Map<string, Conversation>} */
  #conversations = new Map();
  /** @type {string | null} */
  #cursor = null;
  /** @type {string | null} */
  #state = null;
  /** @type {Set<string>} */
  #changed = new Set();
  #idsChanged = false;
  #baseChanged = false;
  /** @type {any} */
  #timer = null;
  /** @type {Promise<void>} */
  #writing = Promise.resolve();

  /**
   * @param {Storage} storage
   * @param {string} prefix of every key
   * @param {import("./env.js").Env} env
   * @param {(error: unknown) => void} failed something could not be kept; the client goes on without
   */
  constructor(storage, prefix, env, failed) {
    this.#storage = storage;
    this.#prefix = prefix;
    this.#env = env;
    this.#failed = failed;
  }

  /** Reads what was kept. What cannot be read in full is not used at all: the client begins afresh. */
  async load() {
    try {
      const base = await this.#read("base");
      if (base?.version !== VERSION) return;
      const ids = (await this.#read("ids")) ?? [];
      const conversations = await Promise.all(ids.map((/** @type {string} */ id) => this.#read(`c:${id}`)));
      if (conversations.some((one) => one === null)) return;
      this.#conversations = new Map(conversations.map((one) => [one.id, one]));
      this.#cursor = base.cursor;
      this.#state = base.state;
    } catch (error) {
      this.#failed(error);
    }
  }

  async #read(/** @type {string} */ name) {
    const text = await this.#storage.getItem(`${this.#prefix}:${name}`);
    return text === null ? null : JSON.parse(text);
  }

  get cursor() {
    return this.#cursor;
  }

  set cursor(cursor) {
    this.#cursor = cursor;
    this.#baseChanged = true;
    this.#later();
  }

  get state() {
    return this.#state;
  }

  set state(state) {
    this.#state = state;
    this.#baseChanged = true;
    this.#later();
  }

  /** @param {string} id */
  get(id) {
    return this.#conversations.get(id);
  }

  list() {
    return [...this.#conversations.values()];
  }

  /** @param {Conversation} conversation */
  put(conversation) {
    if (!this.#conversations.has(conversation.id)) this.#idsChanged = true;
    this.#conversations.set(conversation.id, conversation);
    this.#changed.add(conversation.id);
    this.#later();
  }

  /** @param {string} id */
  remove(id) {
    if (!this.#conversations.delete(id)) return;
    this.#idsChanged = true;
    this.#changed.add(id);
    this.#later();
  }

  #later() {
    this.#timer ??= this.#env.setTimeout(() => this.flush(), GATHER);
  }

  /** Writes what changed; resolves when it is written. */
  flush() {
    this.#env.clearTimeout(this.#timer);
    this.#timer = null;
    this.#writing = this.#writing.then(() => this.#write());
    return this.#writing;
  }

  async #write() {
    const changed = [...this.#changed];
    const [ids, base] = [this.#idsChanged, this.#baseChanged];
    const values = changed.map((id) => this.#conversations.get(id));
    const present = [...this.#conversations.keys()];
    const stand = { version: VERSION, cursor: this.#cursor, state: this.#state };
    this.#changed.clear();
    this.#idsChanged = this.#baseChanged = false;
    try {
      for (const value of values) if (value) await this.#keep(`c:${value.id}`, value);
      if (ids) await this.#keep("ids", present);
      if (base) await this.#keep("base", stand);
      for (const [index, id] of changed.entries()) if (!values[index]) await this.#drop(`c:${id}`);
    } catch (error) {
      // It is tried again with the next change.
      for (const id of changed) this.#changed.add(id);
      this.#idsChanged ||= ids;
      this.#baseChanged ||= base;
      this.#failed(error);
    }
  }

  #keep(/** @type {string} */ name, /** @type {any} */ value) {
    return this.#storage.setItem(`${this.#prefix}:${name}`, JSON.stringify(value));
  }

  #drop(/** @type {string} */ name) {
    return this.#storage.removeItem(`${this.#prefix}:${name}`);
  }

  /** Forgets everything, here and in the storage. */
  async clear() {
    await this.flush();
    const ids = [...this.#conversations.keys()];
    this.#conversations.clear();
    this.#cursor = this.#state = null;
    // The base first: without it the rest is not read.
    for (const name of ["base", "ids", ...ids.map((id) => `c:${id}`)]) await this.#drop(name);
  }
}

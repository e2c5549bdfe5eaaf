/**
 * Brings the client to where the server is and keeps it there: inbox, bootstrap, state changes, heads of large groups.
 *
 * Everything is done one after the other, so that answers cannot overtake each other. Signals only say what is to be done; a lost
 * one is made up for by the next heartbeat.
 *
 * @typedef {import("./conversation.js").Conversation} Conversation
 * @typedef {import("./wire.js").Entry} Entry
 * @typedef {import("./wire.js").WireConversation} WireConversation
 * @typedef {import("./wire.js").WireRecord} WireRecord
 */

import { backoff } from "./backoff.js";
import * as model from "./conversation.js";
import { wait } from "./env.js";
import { ChatError, closed, disconnected } from "./error.js";
import { Runner } from "./runner.js";
import { follow, page } from "./timeline.js";
import { op } from "./wire.js";

/** Entries, records, conversations per page, unless the server's pages are shorter. */
const PAGE = 200;
/** Signals with entries that may wait here; beyond, they are pulled. */
const HELD = 64;
/** Milliseconds. A server signals again after 5 s. */
const ACK_WITHIN = 200;
const BEHIND_AGAIN = 500;
const BEHIND_MOST = 5_000;

export class Sync {
  #options;
  #store;
  #runner;
  /** The client must begin afresh. */
  #bootstrap = false;
  /** Whether there was a bootstrap whose cursor was not served yet. */
  #booted = false;
  #bootWaits;
  /** Signals with entries, in order, that follow where the client will stand. @type {Entry[][]} */
  #held = [];
  /** Signals with entries were given up: until a pull is answered, none follows what the client has. */
  #gap = false;
  #pull = false;
  /** The end that made a pull necessary; null: whatever it is, pull. @type {string | null} */
  #pullTo = null;
  #state = false;
  /** @type {Map<string, import("./wire.js").Mark>} */
  #heads = new Map();
  /** @type {{ id: string, resolve: (conversation: Conversation | null) => void, reject: (error: Error) => void }[]} */
  #fetches = [];
  /** @type {any} */
  #ackTimer = null;
  /** What fits into a page. */
  #page = PAGE;
  /** Counts sessions. */
  #turn = 0;

  /**
   * @param {{
   *   request: (asked: import("./wire.js").Op) => Promise<any>,
   *   tell: (told: import("./wire.js").Op) => void,
   *   store: import("./store.js").Store,
   *   env: import("./env.js").Env,
   *   own: (record: WireRecord) => boolean,
   *   on: {
   *     change: (conversation: Conversation, before: Conversation | undefined) => void,
   *     remove: (conversation: Conversation) => void,
   *     record: (record: WireRecord) => void,
   *     discard: (conversation: string, above: number, below: number) => void,
   *     booted: (conversation: string) => void,
   *     reset: (conversation: string) => void,
   *     quiet: () => void,
   *     failed: (error: unknown) => void,
   *   },
   * }} options `booted`: a bootstrap came by, the mark may have moved without a record; `reset`: records between what was taken and
   *   the mark were passed over; `quiet`: nothing is left to be fetched
   */
  constructor(options) {
    this.#options = options;
    this.#store = options.store;
    this.#bootWaits = backoff({ first: 1_000, most: 30_000, random: options.env.random });
    const { quiet, failed } = options.on;
    this.#runner = new Runner(options.env, () => this.#next(), { quiet, failed });
  }

  /** A session began. */
  begin(/** @type {any} */ { resync, end, state, heads, limits }) {
    // A list of ids that is longer is refused.
    this.#page = Math.min(PAGE, limits?.page ?? PAGE);
    this.#bootstrap ||= resync || this.#store.cursor === null;
    this.#ended(end ?? null);
    this.#versioned(state);
    this.#headed(heads ?? []);
    // What was known of when an earlier run ended; of a group that the user left nobody tells again.
    for (const { id, large, head } of this.#store.list()) if (large) this.#headed([{ conversation: id, ...head }]);
    this.#runner.go();
  }

  /** It ended. */
  halt() {
    this.#turn += 1;
    this.#runner.halt();
    // Not when the next one begins: a signal may stand right behind the answer to hello, and is here before anybody could act on
    // that answer.
    this.#held = [];
    this.#gap = false;
    this.#options.env.clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
  }

  /** What the server says to a heartbeat. */
  vitals(/** @type {any} */ { end, state, heads }) {
    this.#ended(end ?? null);
    this.#versioned(state);
    this.#headed(heads ?? []);
    this.#runner.nudge();
  }

  /** What the server says without being asked. */
  event(/** @type {string} */ name, /** @type {any} */ event) {
    if (name === "signal") this.#signal(event);
    else if (name === "state") this.#versioned(event.version);
    else if (name === "heads") this.#headed(event.heads);
    this.#runner.nudge();
  }

  /**
   * A conversation as the server has it now, when it is its turn.
   *
   * @param {string} id
   * @returns {Promise<Conversation | null>} null: the user never was a member
   */
  fetch(id) {
    return new Promise((resolve, reject) => {
      this.#fetches.push({ id, resolve, reject });
      this.#runner.nudge();
    });
  }

  /** The client is closed: nobody is answered any more. */
  stop() {
    this.halt();
    for (const fetch of this.#fetches.splice(0)) fetch.reject(closed());
  }

  /** Changes a conversation, and says so. */
  update(/** @type {Conversation} */ conversation) {
    const before = this.#store.get(conversation.id);
    if (before === conversation) return;
    this.#store.put(conversation);
    this.#options.on.change(conversation, before);
  }

  #signal(/** @type {{ end: string, entries?: Entry[] }} */ { end, entries = [] }) {
    if (entries.length === 0) {
      this.#ended(end);
    } else if (this.#gap || this.#bootstrap || this.#held.length >= HELD) {
      this.#giveUp();
    } else {
      this.#held.push(entries);
    }
    // Also where nothing is new: the server lacks the ack.
    this.#ackSoon();
  }

  #ended(/** @type {string | null} */ end) {
    if (end === null || end === this.#store.cursor) return;
    this.#pull = true;
    this.#pullTo = end;
  }

  #versioned(/** @type {string} */ version) {
    if (version !== this.#store.state) this.#state = true;
  }

  #headed(/** @type {import("./wire.js").Head[]} */ heads) {
    for (const { conversation, seq, ordinal } of heads) {
      if (seq > (this.#heads.get(conversation)?.seq ?? 0)) this.#heads.set(conversation, { seq, ordinal });
    }
  }

  #next() {
    if (this.#bootstrap) return () => this.#begin();
    if (this.#held.length > 0) return () => this.#takeHeld();
    if (this.#pull) return () => this.#pullPage();
    if (this.#state) return () => this.#fetchState();
    if (this.#fetches.length > 0) return () => this.#fetchOne();
    if (this.#heads.size > 0) return () => this.#pageLarge();
    return null;
  }

  async #takeHeld() {
    const entries = this.#held[0];
    await this.#entries(entries);
    // Meanwhile they may all have been given up.
    if (this.#held[0] === entries) this.#held.shift();
  }

  async #pullPage() {
    const cursor = this.#store.cursor;
    if (cursor === null) return void (this.#bootstrap = true);
    this.#pull = false;
    if (!this.#gap && this.#pullTo === cursor) return;
    this.#pullTo = null;
    try {
      const { entries, more, resync } = await this.#ask(op.pull({ after: cursor, max: this.#page }));
      if (resync) return void (this.#bootstrap = true);
      this.#booted = false;
      this.#bootWaits.reset();
      // What the server says from now on follows this answer; what was given up before it set `#pull` again.
      this.#gap = false;
      await this.#entries(entries);
      if (more) this.#pullOn();
    } catch (error) {
      // The server may think that its answer has come, and go on from there.
      this.#giveUp();
      throw error;
    }
  }

  /** Signals with entries do not follow what is here any more: from now on it is pulled. */
  #giveUp() {
    this.#held = [];
    this.#gap = true;
    this.#pullOn();
  }

  /** Whatever end is told of: one that was told again may well be where the client stands by now, and is not the last. */
  #pullOn() {
    this.#pull = true;
    this.#pullTo = null;
  }

  async #entries(/** @type {Entry[]} */ entries) {
    for (const { cursor, record } of entries) {
      await this.#entry(record);
      this.#store.cursor = cursor;
    }
    this.#ackSoon();
  }

  async #entry(/** @type {WireRecord} */ record) {
    const conversation = this.#store.get(record.conversation) ?? (await this.#meet(record.conversation));
    // The server has no right of the user's to it: there is nothing to show it in.
    if (!conversation) return;
    this.update(model.begun(conversation, record.seq));
    const history = this.#history(record.conversation);
    await follow(this.#timeline(record.conversation), record, (from, to) => history(from, to).catch(nothingThere));
  }

  async #fetchState() {
    this.#state = false;
    try {
      const { version, changes, all } = await this.#ask(op.state({ since: this.#store.state ?? undefined }));
      if (all) await this.#listAll(op.conversations({ max: this.#page }), (view) => this.#adopt(view));
      else for (const view of changes) this.#adopt(view);
      this.#store.state = version;
    } catch (error) {
      this.#state = true;
      throw error;
    }
  }

  async #fetchOne() {
    const fetch = this.#fetches[0];
    const done = () => (this.#fetches = this.#fetches.filter((one) => one !== fetch));
    try {
      fetch.resolve(await this.#meet(fetch.id));
      done();
    } catch (error) {
      if (!settled(error)) throw error;
      done();
      fetch.reject(/** @type {Error} */ (error));
    }
  }

  async #meet(/** @type {string} */ id) {
    const { conversations, behind = [] } = await this.#ask(op.conversations({ ids: [id] }));
    if (behind.length > 0) throw new ChatError("behind", "the store is not far enough", { transient: true });
    conversations.forEach((/** @type {WireConversation} */ view) => this.#adopt(view));
    return this.#store.get(id) ?? null;
  }

  /** Takes over what the server says about a conversation. */
  #adopt(/** @type {WireConversation} */ view) {
    const known = this.#store.get(view.id);
    this.update(known ? model.merged(known, view) : model.met(view));
    // Also after leaving: the head is then the leaving record, which nobody else will tell of.
    if (view.large) this.#headed([{ conversation: view.id, ...view.head }]);
  }

  /** One page of one large group: the inbox and the other groups are not to wait for a long one. */
  async #pageLarge() {
    const [id, head] = /** @type {[string, import("./wire.js").Mark]} */ (this.#heads.entries().next().value);
    const met = this.#store.get(id) ?? (await this.#meet(id));
    const done = () => this.#heads.get(id) === head && this.#heads.delete(id);
    if (!met) return void done();
    const conversation = model.headed(model.begun(met, met.joined.seq), head);
    this.update(conversation);
    const [from, to] = [(conversation.mark?.seq ?? 0) + 1, model.within(conversation, head.seq)];
    if (from > to) return void done();
    try {
      if (!(await page(this.#timeline(id), from, to, this.#history(id)))) done();
    } catch (error) {
      if (!settled(error)) throw error;
      done();
    }
    // The others' turn; meanwhile the head may have moved.
    const newest = this.#heads.get(id);
    if (newest && this.#heads.delete(id)) this.#heads.set(id, newest);
  }

  #timeline(/** @type {string} */ id) {
    const here = () => /** @type {Conversation} */ (this.#store.get(id));
    return {
      mark: () => here().mark?.seq ?? 0,
      take: (/** @type {WireRecord} */ record, /** @type {number | null} */ above) => {
        if (above !== null) this.#options.on.discard(id, above, record.seq);
        this.update(model.taken(here(), record, this.#options.own(record)));
        this.#options.on.record(record);
      },
      reach: (/** @type {number} */ seq) => this.#store.put(model.reached(here(), seq)),
    };
  }

  #history(/** @type {string} */ conversation) {
    return (/** @type {number} */ from, /** @type {number} */ to) =>
      this.#ask(op.history({ conversation, from, to, max: this.#page }));
  }

  /** The bootstrap: begins with a cursor and a state version, then everything that is there is at least as new. */
  async #begin() {
    // A server that serves no cursor would be asked for everything without end.
    if (this.#booted) await wait(this.#options.env, this.#bootWaits.next());
    this.#store.cursor = null;
    this.#giveUp();
    // The state that it begins with is newer than all that was heard of before.
    this.#state = false;
    const listed = new Set();
    const boot = (/** @type {WireConversation} */ view) => {
      listed.add(view.id);
      this.#boot(view);
    };
    const { cursor, state } = await this.#listAll(op.conversations({ fresh: true, max: this.#page }), boot);
    for (const gone of this.#store.list().filter(({ id }) => !listed.has(id))) this.#remove(gone);
    this.#store.cursor = cursor;
    this.#store.state = state;
    this.#bootstrap = false;
    this.#booted = true;
    this.#pull = true;
    this.#ackSoon();
  }

  #boot(/** @type {WireConversation} */ view) {
    const known = this.#store.get(view.id);
    const current = known?.mark && known.mark.seq >= view.head.seq;
    this.update(current ? model.merged(known, view) : model.booted(view, known));
    this.#options.on.booted(view.id);
    // Also where no record was taken yet: it may be shown all the same, as one that is empty.
    if (known && !current) this.#options.on.reset(view.id);
  }

  #remove(/** @type {Conversation} */ conversation) {
    this.#store.remove(conversation.id);
    this.#options.on.remove(conversation);
  }

  /**
   * Goes through all conversations; the first answer.
   *
   * Over one connection: only the session that was asked first knows how far the store has to be. Another one would answer with
   * what the store happens to have.
   */
  async #listAll(/** @type {import("./wire.js").Op} */ first, /** @type {(view: WireConversation) => void} */ each) {
    const turn = this.#turn;
    const begin = await this.#ask(first);
    /** @type {string[]} */
    const behind = [];
    for (let answer = begin; ; answer = await this.#ask(op.conversations({ after: answer.next, max: this.#page }))) {
      answer.conversations.forEach(each);
      behind.push(...(answer.behind ?? []));
      if (answer.next === undefined) break;
    }
    for (let delay = BEHIND_AGAIN; behind.length > 0; delay = Math.min(2 * delay, BEHIND_MOST)) {
      await wait(this.#options.env, delay);
      if (turn !== this.#turn) throw disconnected("conversations");
      const answer = await this.#ask(op.conversations({ ids: behind.splice(0, this.#page) }));
      answer.conversations.forEach(each);
      behind.push(...(answer.behind ?? []));
    }
    return begin;
  }

  #ask(/** @type {import("./wire.js").Op} */ asked) {
    return this.#options.request(asked);
  }

  #ackSoon() {
    this.#ackTimer ??= this.#options.env.setTimeout(() => {
      this.#ackTimer = null;
      this.#ack();
    }, ACK_WITHIN);
  }

  /** What is acked is kept. */
  async #ack() {
    const cursor = this.#store.cursor;
    await this.#store.flush();
    if (cursor !== null) this.#options.tell(op.ack({ cursor }));
  }
}

/** Whether asking again would be answered the same. */
function settled(/** @type {any} */ error) {
  return error instanceof ChatError && !error.transient && !error.unknown;
}

/** A range that the server refuses to this user is one in which the user has nothing. */
function nothingThere(/** @type {any} */ error) {
  if (settled(error)) return { records: [], more: false };
  throw error;
}

/**
 * The client: one device of one user.
 *
 * Events, by `on(name, listener)`:
 *
 * | name | carries | when |
 * |---|---|---|
 * | `status` | {@link import("./connection.js").Status} | the connection changed |
 * | `synced` | | everything that the server has for this device is here |
 * | `message` | `{ conversation, record, own }` | a record is next in its conversation: once and in order |
 * | `conversation` | `{ conversation, before }` | something about a conversation changed, unread included; `before` is undefined for a new one |
 * | `removed` | `{ conversation }` | a conversation is not there any more |
 * | `unread` | `{ total, undisturbed }` | the sums changed; undisturbed conversations are counted apart |
 * | `outbox` | `{ conversation }` | the messages on their way changed: `outgoing(conversation)` |
 * | `discard` | `{ conversation, above, below }` | the records between do not exist any more (the server lost them): show them no longer |
 * | `reset` | `{ conversation }` | records were passed over: load what is shown afresh from history |
 * | `failed` | `{ error }` | something went wrong that the client tries again by itself; for logs |
 *
 * @typedef {import("./conversation.js").Conversation} Conversation
 * @typedef {import("./wire.js").Ack} Ack
 * @typedef {import("./wire.js").WireRecord} WireRecord
 */

import { Connection } from "./connection.js";
import { Emitter } from "./emitter.js";
import { realEnv } from "./env.js";
import { ChatError } from "./error.js";
import { idSource } from "./ids.js";
import { Outbox } from "./outbox.js";
import { Reads } from "./reads.js";
import { memoryStorage } from "./storage.js";
import { Store } from "./store.js";
import { Sync } from "./sync.js";
import { MessageWindow } from "./window.js";
import { op } from "./wire.js";

/** What browsers have. @type {(url: string, protocols: string[]) => any} */
const webSocket = (url, protocols) => new WebSocket(url, protocols);

export class ChatClient {
  #options;
  #env;
  #emitter = new Emitter();
  #store;
  #connection;
  #sync;
  #reads;
  #outbox;
  #newId;
  /** The server's clock less ours, in milliseconds. */
  #clockOffset = 0;
  #perDevice = false;
  #synced = false;
  /** @type {import("./wire.js").Limits | null} */
  #limits = null;
  #unread = { total: 0, undisturbed: 0 };
  /** @type {Promise<void> | null} */
  #loaded = null;
  /** Counts endings: a start that began before one is void. */
  #endings = 0;

  /**
   * @param {{
   *   url: string,
   *   token: string | ((again: boolean) => string | Promise<string>),
   *   user: string,
   *   device: string,
   *   platform?: string,
   *   storage?: import("./storage.js").Storage,
   *   openSocket?: (url: string, protocols: string[]) => import("./link.js").Socket,
   *   env?: import("./env.js").Env,
   * }} options
   *   `url`: `wss://…`. `token`: a function is asked at every connection; with `true` where the last token had run out. One of
   *   another user than `user` ends the client: `unauthorized`.
   *   `device`: made once per installation and kept; two clients with one device push each other out.
   *   `storage`: what is kept there outlives the client; by default nothing is.
   */
  constructor(options) {
    const { url, openSocket = webSocket, env = realEnv, storage = memoryStorage(), user, device } = options;
    this.#options = options;
    this.#env = env;
    this.#newId = idSource(() => this.#now());
    const failed = (/** @type {unknown} */ error) => this.#failed(error);
    const prefix = `im:${user.length}:${user}:${device}`;
    const store = new Store(storage, prefix, env, failed);
    const connection = new Connection({
      url,
      user,
      openSocket,
      env,
      hello: (again) => this.#hello(again),
      on: {
        status: (status) => this.#status(status),
        welcome: (welcome) => this.#welcome(welcome),
        vitals: (vitals) => this.#sync.vitals(vitals),
        event: (name, event) => this.#sync.event(name, event),
      },
    });
    const request = (/** @type {import("./wire.js").Op} */ asked) => connection.request(asked);
    this.#store = store;
    this.#connection = connection;
    this.#outbox = new Outbox({
      send: (item) => request(sending(item)),
      newId: () => this.#newId(),
      clockIs: (time) => this.#clockIs(time),
      takenUpTo: (id) => this.#takenUpTo(id),
      env,
      storage,
      key: `${prefix}:outbox`,
      changed: (conversation) => this.#emit("outbox", { conversation }),
      failed,
    });
    this.#sync = new Sync({
      request,
      tell: (told) => connection.tell(told),
      store,
      env,
      own: (record) => this.#isReadBySending(record),
      on: {
        change: (conversation, before) => this.#changed(conversation, before),
        remove: (conversation) => this.#removed(conversation),
        record: (record) => this.#record(record),
        discard: (conversation, above, below) => this.#emit("discard", { conversation, above, below }),
        booted: (conversation) => this.#outbox.review(conversation),
        reset: (conversation) => this.#emit("reset", { conversation }),
        quiet: () => this.#quiet(),
        failed,
      },
    });
    const update = (/** @type {Conversation} */ conversation) => this.#sync.update(conversation);
    this.#reads = new Reads({ request, store, update, env });
  }

  /** The user. */
  get user() {
    return this.#options.user;
  }

  /** How the connection stands. */
  get status() {
    return this.#connection.status;
  }

  /** Whether everything that the server has for this device is here. */
  get synced() {
    return this.#synced;
  }

  /** What the server takes, as it said last; null: it has not said yet. */
  get limits() {
    return this.#limits;
  }

  /** The sums of what is unread. */
  get unread() {
    return this.#unread;
  }

  /**
   * Listens to an event.
   *
   * @param {string} name
   * @param {(event: any) => void} listener
   * @returns {() => void} ends it
   */
  on(name, listener) {
    return this.#emitter.on(name, listener);
  }

  /** Reads what was kept, then connects; resolves when what was kept can be shown. */
  async start() {
    const endings = this.#endings;
    await this.#load();
    if (endings === this.#endings) this.#connection.start();
  }

  /** Once. */
  #load() {
    this.#loaded ??= this.#read();
    return this.#loaded;
  }

  async #read() {
    await this.#store.load();
    await this.#outbox.load();
    this.#outbox.reviewAll();
    this.#count();
  }

  /** Ends the connection; resolves when everything is kept. `start` goes on from there. */
  async stop() {
    this.#end();
    await this.flush();
  }

  /** Signs out: ends the connection and forgets everything that was kept. */
  async forget() {
    this.#end();
    // What is not known of cannot be taken out of the storage; what is still being read would be back afterwards.
    await this.#load();
    await this.#outbox.clear();
    await this.#store.clear();
    this.#count();
  }

  #end() {
    this.#endings += 1;
    this.#connection.stop();
  }

  /** Keeps what was not kept yet, as before a page is closed. */
  async flush() {
    await Promise.all([this.#store.flush(), this.#outbox.flush()]);
  }

  /** The device woke up, or has a network again: see at once whether the connection lives. */
  wake() {
    this.#connection.wake();
  }

  /** The user's conversations, the newest first. @returns {Conversation[]} */
  conversations() {
    const time = (/** @type {Conversation} */ { last, created_at }) => last?.created_at ?? created_at;
    return this.#store.list().sort((a, b) => time(b) - time(a));
  }

  /** @param {string} id @returns {Conversation | undefined} */
  conversation(id) {
    return this.#store.get(id);
  }

  /**
   * Sends a message, now or as soon as there is a connection.
   *
   * @param {string} conversation
   * @param {string} content text; JSON text for the structured types
   * @param {string} [type]
   * @returns {Promise<Ack>} rejects only when it is refused; until then it is on its way, however long that takes
   */
  send(conversation, content, type = "text") {
    return this.#outbox.add(conversation, type, content).acked;
  }

  /** The messages on their way, oldest first. @param {string} conversation */
  outgoing(conversation) {
    return this.#outbox.list(conversation);
  }

  /** Sends a refused message again. @param {string} id */
  retry(id) {
    this.#outbox.retry(id);
  }

  /** Gives a refused message up. @param {string} id */
  discard(id) {
    this.#outbox.discard(id);
  }

  /**
   * The user has read a conversation: everything that was taken, or up to a record.
   *
   * @param {string} id
   * @param {import("./wire.js").Mark} [upTo] a record will do
   */
  markRead(id, upTo) {
    const mark = upTo ?? this.#store.get(id)?.mark;
    if (mark) this.#reads.mark(id, { seq: mark.seq, ordinal: mark.ordinal });
  }

  /**
   * A page of a conversation, in ascending order.
   *
   * @param {string} conversation
   * @param {{ from?: number, to?: number, max?: number, backward?: boolean }} [range] both ends included; backward: the page is
   *   taken from the upper end
   * @returns {Promise<{ records: WireRecord[], more: boolean }>}
   */
  history(conversation, { backward, ...range } = {}) {
    return this.#call(op.history({ conversation, ...range, backward: backward || undefined }));
  }

  /**
   * The conversation with another user; it begins to be there with the first message.
   *
   * @param {string} user
   * @returns {Promise<Conversation>}
   */
  async openSingle(user) {
    const { conversation } = await this.#call(op.openSingle({ user }));
    return this.#here(conversation.id);
  }

  /**
   * Creates a group.
   *
   * @param {{ conversation?: string, name?: string, members?: string[] }} group `conversation`: its id, if it is to have a certain
   *   one
   * @returns {Promise<Conversation>}
   */
  async createGroup({ conversation, name, members = [] }) {
    const ack = await this.#call(op.createGroup({ conversation, name, members, client_msg_id: this.#newId() }));
    return this.#here(ack.conversation);
  }

  /**
   * Joins a group, or brings others in.
   *
   * @param {string} conversation
   * @param {string[]} [users] others
   * @returns {Promise<Conversation>}
   */
  async join(conversation, users) {
    await this.#call(op.join({ conversation, users, client_msg_id: this.#newId() }));
    return this.#here(conversation);
  }

  /**
   * Leaves a group, or puts others out.
   *
   * @param {string} conversation
   * @param {string[]} [users] others
   * @returns {Promise<Conversation>}
   */
  async leave(conversation, users) {
    await this.#call(op.leave({ conversation, users, client_msg_id: this.#newId() }));
    return this.#here(conversation);
  }

  /**
   * Gives a member a role.
   *
   * @param {string} conversation
   * @param {string} user
   * @param {"member" | "admin" | "owner"} role
   */
  async setRole(conversation, user, role) {
    await this.#call(op.setRole({ conversation, user, role, client_msg_id: this.#newId() }));
  }

  /**
   * A page of the members of a conversation, by user id.
   *
   * @param {string} conversation
   * @param {{ after?: string, max?: number }} [page] `after`: the `next` of the page before
   * @returns {Promise<{ members: import("./wire.js").Member[], next?: string }>}
   */
  members(conversation, page = {}) {
    return this.#call(op.members({ conversation, ...page }));
  }

  /**
   * Changes the user's own settings of a conversation; what is left out stays.
   *
   * @param {string} conversation
   * @param {{ nickname?: string, hidden?: boolean, undisturbed?: boolean, cleared?: number }} change `cleared`: up to this
   *   sequence id nothing is shown any more
   */
  async set(conversation, change) {
    await this.#call(op.set({ conversation, ...change }));
    await this.#here(conversation);
  }

  /**
   * What a page shows of one conversation.
   *
   * @param {string} conversation
   * @param {() => void} changed there is something new to show
   */
  window(conversation, changed) {
    return new MessageWindow(this, conversation, changed);
  }

  #call(/** @type {import("./wire.js").Op} */ asked) {
    return this.#connection.call(asked);
  }

  /** @param {string} id @returns {Promise<Conversation>} */
  async #here(id) {
    const conversation = await this.#sync.fetch(id);
    if (!conversation) throw new ChatError("not_member", "the user is not a member");
    return conversation;
  }

  async #hello(/** @type {boolean} */ again) {
    const { token, device, platform = "web" } = this.#options;
    if (again && typeof token === "string") throw new ChatError("token_expired", "the token has expired");
    const { cursor, state } = this.#store;
    const stand = cursor === null ? {} : { cursor, state: state ?? undefined };
    return { token: typeof token === "string" ? token : await token(again), device, platform, ...stand };
  }

  #status(/** @type {import("./connection.js").Status} */ status) {
    if (status.state !== "online") {
      this.#synced = false;
      this.#sync.halt();
      this.#reads.halt();
      this.#outbox.halt();
    }
    if (status.state === "closed") {
      this.#sync.stop();
      this.#outbox.stop();
    }
    this.#emit("status", status);
  }

  #welcome(/** @type {any} */ welcome) {
    this.#clockIs(welcome.time);
    this.#perDevice = welcome.read_marks === "per_device";
    this.#limits = welcome.limits ?? null;
    this.#sync.begin(welcome);
    this.#reads.begin();
    this.#outbox.begin();
  }

  #quiet() {
    if (this.#synced) return;
    this.#synced = true;
    this.#emit("synced", {});
  }

  #changed(/** @type {Conversation} */ conversation, /** @type {Conversation | undefined} */ before) {
    this.#recount(before, conversation);
    if (conversation.left && !before?.left) this.#outbox.review(conversation.id);
    this.#emit("conversation", { conversation, before });
  }

  #removed(/** @type {Conversation} */ conversation) {
    this.#recount(conversation, undefined);
    this.#outbox.review(conversation.id);
    this.#emit("removed", { conversation });
  }

  #record(/** @type {WireRecord} */ record) {
    const own = record.from === this.user;
    if (own) this.#outbox.taken(record);
    this.#emit("message", { conversation: record.conversation, record, own });
  }

  /** A message that raced the sender's leaving stands where the sender sees nothing. */
  #takenUpTo(/** @type {string} */ id) {
    const conversation = this.#store.get(id);
    return !conversation || conversation.left ? Infinity : (conversation.mark?.seq ?? 0);
  }

  /** Who sends a message has read up to it: the user, or where devices have marks of their own the device alone. */
  #isReadBySending(/** @type {WireRecord} */ { kind, from, client_msg_id: id }) {
    return kind === "message" && from === this.user && (!this.#perDevice || this.#outbox.has(id));
  }

  #recount(/** @type {Conversation | undefined} */ before, /** @type {Conversation | undefined} */ after) {
    const { total, undisturbed } = this.#unread;
    const [was, is] = [counts(before), counts(after)];
    const now = {
      total: total - was.total + is.total,
      undisturbed: undisturbed - was.undisturbed + is.undisturbed,
    };
    if (now.total === total && now.undisturbed === undisturbed) return;
    this.#unread = now;
    this.#emit("unread", now);
  }

  #count() {
    this.#unread = { total: 0, undisturbed: 0 };
    for (const conversation of this.#store.list()) this.#recount(undefined, conversation);
  }

  #now() {
    return this.#env.now() + this.#clockOffset;
  }

  #clockIs(/** @type {number} */ time) {
    this.#clockOffset = time - this.#env.now();
    // A source never goes back; one that ran ahead is of no use any more.
    this.#newId = idSource(() => this.#now());
  }

  #failed(/** @type {unknown} */ error) {
    this.#emit("failed", { error });
  }

  #emit(/** @type {string} */ name, /** @type {any} */ event) {
    this.#emitter.emit(name, event);
  }
}

/** @param {import("./outbox.js").Outgoing} item */
function sending({ conversation, id, type, content }) {
  return op.send({ conversation, client_msg_id: id, type, content });
}

/** @param {Conversation | undefined} conversation */
function counts(conversation) {
  if (!conversation) return { total: 0, undisturbed: 0 };
  const { unread, settings } = conversation;
  return settings.undisturbed ? { total: 0, undisturbed: unread } : { total: unread, undisturbed: 0 };
}

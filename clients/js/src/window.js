/**
 * What a page shows of one conversation: a gapless stretch of its timeline that ends where the client stands and grows upwards by
 * `older()`, and the messages on their way.
 *
 * @typedef {import("./wire.js").WireRecord} WireRecord
 */

const PAGE = 50;
/** Records that are kept; beyond, the oldest half goes, and `older()` brings it back. */
const MOST = 2000;

export class MessageWindow {
  #chat;
  #changed;
  #off;
  /** The newest page could not be loaded. */
  #stale = false;
  /** Counts beginnings: what an earlier one asked for is void. */
  #turn = 0;

  /**
   * @param {import("./client.js").ChatClient} chat
   * @param {string} conversation
   * @param {() => void} changed called whenever there is something new to show
   */
  constructor(chat, conversation, changed) {
    this.#chat = chat;
    this.#changed = changed;
    this.conversation = conversation;
    /** In order; change nothing in it. @type {WireRecord[]} */
    this.records = [];
    /** Whether the stretch reaches down to the first record that the user may read. */
    this.complete = false;
    this.loading = false;
    /** Whether the reader is at the newest end: then what is far above may go. */
    this.atEnd = true;
    const here = (/** @type {any} */ event) => event.conversation === conversation;
    this.#off = [
      chat.on("message", (event) => here(event) && this.#append(event.record)),
      chat.on("discard", (event) => here(event) && this.#discard(event)),
      chat.on("reset", (event) => here(event) && this.#again()),
      chat.on("synced", () => this.#stale && this.#again()),
      chat.on("outbox", (event) => here(event) && changed()),
    ];
  }

  /** The messages on their way. */
  get outgoing() {
    return this.#chat.outgoing(this.conversation);
  }

  /** Loads the newest page; resolves when it is there. */
  async open() {
    this.#turn += 1;
    this.records = [];
    const known = this.#chat.conversation(this.conversation);
    const mark = known?.mark?.seq ?? (known?.joined.seq ?? 1) - 1;
    this.complete = mark === 0;
    this.loading = false;
    this.#stale = true;
    this.#changed();
    const turn = this.#turn;
    if (mark > 0) await this.#load(mark);
    if (turn === this.#turn) this.#stale = false;
  }

  /** What fails is tried again with the next connection. */
  #again() {
    this.open().catch(() => {});
  }

  /** Loads the page above; resolves when it is there. */
  async older() {
    if (this.complete || this.loading || this.records.length === 0) return;
    await this.#load(this.records[0].seq - 1);
  }

  async #load(/** @type {number} */ to) {
    const turn = this.#turn;
    this.loading = true;
    try {
      const { records, more } = await this.#chat.history(this.conversation, { to, max: PAGE, backward: true });
      if (turn !== this.#turn) return;
      this.records = [...records, ...this.records];
      this.complete = !more;
    } finally {
      if (turn === this.#turn) {
        this.loading = false;
        this.#changed();
      }
    }
  }

  #append(/** @type {WireRecord} */ record) {
    this.records = [...this.records, record];
    // Not under a page that is on its way: it is the one above what stands here now.
    if (this.atEnd && !this.loading && this.records.length > MOST) {
      this.records = this.records.slice(-MOST / 2);
      this.complete = false;
    }
    this.#changed();
  }

  #discard(/** @type {{ above: number, below: number }} */ { above, below }) {
    this.records = this.records.filter(({ seq }) => seq <= above || seq >= below);
    this.#changed();
  }

  close() {
    this.#turn += 1;
    this.#off.forEach((off) => off());
  }
}

/**
 * Keeps a session alive over one socket after another: hello, heartbeat, backoff, close codes.
 *
 * @typedef {import("./env.js").Env} Env
 * @typedef {import("./link.js").Socket} Socket
 *
 * @typedef {{
 *   state: "connecting" | "online" | "waiting" | "closed",
 *   reason?: string,
 *   retryAt?: number,
 * }} Status
 *   `reason` is the name of a close code, an error's code, or `offline`; `closed` is for good. `retryAt`: milliseconds since 1970.
 */

import { backoff } from "./backoff.js";
import { wait } from "./env.js";
import { ChatError, closed, disconnected } from "./error.js";
import { Link } from "./link.js";
import { pace } from "./pace.js";
import { FRAME_BYTES, SUBPROTOCOL, closeMeaning, op } from "./wire.js";

/** Milliseconds. */
const TIMES = {
  /** From the beginning of a connection to the answer to hello. */
  connect: 15_000,
  /** For an answer: the server's own patience is 5 s. */
  answer: 10_000,
  /** For the answer to a ping that was sent because the device woke up. */
  wake: 4_000,
  /** How long a call waits for a connection and tries again. */
  patience: 20_000,
  /** A connection that lived so long was a good one: the next wait is short again. */
  stable: 10_000,
  firstWait: 1_000,
  longestWait: 30_000,
};

export class Connection {
  #options;
  #env;
  #waits;
  /** @type {Link | null} */
  #link = null;
  /** @type {Status} */
  #status = { state: "closed", reason: "not started" };
  /** @type {any} */
  #timer = null;
  #onlineSince = 0;
  #frameBytes = FRAME_BYTES;
  /** How long the next frame has to wait, so that the server does not refuse it as too fast. */
  #pace = () => 0;
  /** @type {{ resolve: () => void, reject: (error: Error) => void }[]} */
  #waiters = [];
  /** Counts connections: what belongs to an earlier one is void. */
  #turn = 0;

  /**
   * @param {{
   *   url: string,
   *   user: string,
   *   openSocket: (url: string, protocols: string[]) => Socket,
   *   hello: (again: boolean) => Promise<Parameters<typeof op.hello>[0]>,
   *   env: Env,
   *   on: {
   *     status: (status: Status) => void,
   *     welcome: (welcome: any) => void,
   *     vitals: (vitals: any) => void,
   *     event: (name: string, event: any) => void,
   *   },
   * }} options `user`: whose session it must be; `hello(true)`: the token of the last one had expired
   */
  constructor(options) {
    this.#options = options;
    this.#env = options.env;
    this.#waits = backoff({ first: TIMES.firstWait, most: TIMES.longestWait, random: options.env.random });
  }

  get status() {
    return this.#status;
  }

  /** Connects, and connects again until it is stopped or sent away for good. */
  start() {
    if (this.#status.state !== "closed") return;
    this.#waits.reset();
    this.#connect();
  }

  /** Ends everything. */
  stop(reason = "stopped") {
    if (this.#status.state === "closed") return;
    this.#say({ state: "closed", reason });
    this.#drop();
    for (const waiter of this.#waiters.splice(0)) waiter.reject(closed());
  }

  /** The device woke up or has a network again: do not wait any longer, and see whether the connection still lives. */
  wake() {
    if (this.#status.state === "waiting") this.#connect();
    else if (this.#status.state === "online") this.#ping(TIMES.wake);
  }

  /**
   * Asks once, on the present connection.
   *
   * @param {import("./wire.js").Op} asked
   * @param {number} [timeout] milliseconds
   * @returns {Promise<any>}
   */
  async request(asked, timeout = TIMES.answer) {
    const turn = this.#turn;
    const delay = this.#status.state === "online" ? this.#pace() : 0;
    if (delay > 0) await wait(this.#env, delay);
    if (turn !== this.#turn || this.#status.state !== "online" || !this.#link) throw disconnected(asked.op);
    return this.#link.request(asked, { timeout, frameBytes: this.#frameBytes });
  }

  /** Tells the server what it does not answer; without a connection nothing is told. */
  tell(/** @type {import("./wire.js").Op} */ told) {
    if (this.#status.state !== "online") return;
    this.#pace();
    this.#link?.tell(told);
  }

  /**
   * Asks until there is an answer, over several connections if need be. Only for what is safe to repeat; everything is.
   *
   * @param {import("./wire.js").Op} asked
   * @returns {Promise<any>}
   */
  async call(asked) {
    const patience = this.#patience();
    const waits = backoff({ first: 250, most: 5_000, random: this.#env.random });
    try {
      for (;;) {
        await this.#online(asked.op, patience);
        try {
          return await this.request(asked);
        } catch (error) {
          if (!(error instanceof ChatError) || !error.transient || patience.over) throw error;
          await wait(this.#env, Math.max(error.retryAfter ?? 0, waits.next()));
        }
      }
    } finally {
      this.#env.clearTimeout(patience.timer);
    }
  }

  /** How long a call goes on. By a timer: the clock may be set meanwhile, and not every platform has one that cannot be. */
  #patience() {
    const patience = { over: false, whenOver: () => {}, timer: /** @type {any} */ (null) };
    patience.timer = this.#env.setTimeout(() => {
      patience.over = true;
      patience.whenOver();
    }, TIMES.patience);
    return patience;
  }

  #online(/** @type {string} */ what, /** @type {{ over: boolean, whenOver: () => void }} */ patience) {
    if (this.#status.state === "online") return Promise.resolve();
    if (this.#status.state === "closed") return Promise.reject(closed());
    if (patience.over) return Promise.reject(disconnected(what));
    return new Promise((resolve, reject) => {
      const waiter = { resolve: () => resolve(undefined), reject };
      patience.whenOver = () => {
        this.#waiters = this.#waiters.filter((one) => one !== waiter);
        reject(disconnected(what));
      };
      this.#waiters.push(waiter);
    });
  }

  #connect() {
    this.#drop();
    const turn = this.#turn;
    this.#say({ state: "connecting" });
    this.#timer = this.#env.setTimeout(() => this.#lost(turn, "offline"), TIMES.connect);
    // Asked for before the socket is opened: the server waits 10 s for the first frame.
    this.#options.hello(false).then(
      (hello) => turn === this.#turn && this.#open(turn, hello),
      () => this.#lost(turn, "token"),
    );
  }

  #open(/** @type {number} */ turn, /** @type {any} */ hello) {
    let link;
    try {
      const socket = this.#options.openSocket(this.#options.url, [SUBPROTOCOL]);
      link = new Link(socket, this.#env, {
        open: () => this.#greet(turn, hello),
        event: (name, event) => turn === this.#turn && this.#event(name, event),
        end: (code) => this.#ended(turn, code),
      });
    } catch {
      return this.#lost(turn, "offline");
    }
    this.#link = link;
  }

  async #greet(/** @type {number} */ turn, /** @type {any} */ hello) {
    const greeting = (/** @type {any} */ body) =>
      this.#link?.request(op.hello(body), { timeout: TIMES.connect, frameBytes: this.#frameBytes });
    try {
      let welcome;
      try {
        welcome = await greeting(hello);
      } catch (error) {
        if (!(error instanceof ChatError) || error.code !== "token_expired") throw error;
        const again = await this.#options.hello(true);
        // The connection was lost while the token was asked for: the next one says its own hello.
        if (turn !== this.#turn) return;
        welcome = await greeting(again);
      }
      if (turn === this.#turn) this.#welcome(turn, welcome);
    } catch (error) {
      this.#notGreeted(turn, error);
    }
  }

  #welcome(/** @type {number} */ turn, /** @type {any} */ welcome) {
    // A token of somebody else, as after another sign-in: what waits here must not go out in that user's name.
    if (welcome.user !== this.#options.user) return this.stop("unauthorized");
    this.#env.clearTimeout(this.#timer);
    this.#onlineSince = this.#env.now();
    const { frame_bytes: frameBytes = FRAME_BYTES, frames_per_second: rate = 50, frames_burst: burst = 200 } = welcome.limits ?? {};
    this.#frameBytes = frameBytes;
    this.#pace = pace(this.#env, { rate, burst });
    this.#say({ state: "online" });
    // Whoever heard it may have stopped us.
    if (turn !== this.#turn) return;
    this.#options.on.welcome(welcome);
    this.#beat(turn, welcome.heartbeat_ms);
    for (const waiter of this.#waiters.splice(0)) waiter.resolve();
  }

  #notGreeted(/** @type {number} */ turn, /** @type {any} */ error) {
    if (turn !== this.#turn) return;
    // Close codes say it better than a lost connection does; what the server refuses for good it may also close for.
    const passing = !(error instanceof ChatError) || error.transient || error.unknown;
    if (passing) this.#lost(turn, error?.code ?? "token");
    else this.stop(error.code);
  }

  #event(/** @type {string} */ name, /** @type {any} */ event) {
    if (name === "kicked") this.stop(event.reason === "replaced" ? "kicked" : String(event.reason));
    else this.#options.on.event(name, event);
  }

  #beat(/** @type {number} */ turn, /** @type {number} */ interval) {
    this.#timer = this.#env.setTimeout(async () => {
      await this.#ping(TIMES.answer);
      if (turn === this.#turn) this.#beat(turn, interval);
    }, interval);
  }

  async #ping(/** @type {number} */ timeout) {
    const turn = this.#turn;
    try {
      const vitals = await this.request(op.ping(), timeout);
      if (turn === this.#turn) this.#options.on.vitals(vitals);
    } catch (error) {
      // An error is an answer too: the connection lives.
      if (error instanceof ChatError && error.code === "timeout") this.#lost(turn, "offline");
    }
  }

  #ended(/** @type {number} */ turn, /** @type {number} */ code) {
    if (turn !== this.#turn) return;
    const { name, final } = closeMeaning(code);
    if (final) this.stop(name);
    else this.#lost(turn, name);
  }

  /** The connection is gone, or did not come: wait, then connect again. */
  #lost(/** @type {number} */ turn, /** @type {string} */ reason) {
    if (turn !== this.#turn || this.#status.state === "closed") return;
    const wasOnline = this.#status.state === "online";
    if (wasOnline && this.#env.now() - this.#onlineSince >= TIMES.stable) this.#waits.reset();
    this.#drop();
    const delay = this.#waits.next();
    this.#timer = this.#env.setTimeout(() => this.#connect(), delay);
    this.#say({ state: "waiting", reason, retryAt: this.#env.now() + delay });
  }

  /** Whatever the present connection still does is void. */
  #drop() {
    this.#turn += 1;
    this.#env.clearTimeout(this.#timer);
    const link = this.#link;
    this.#link = null;
    link?.close();
  }

  #say(/** @type {Status} */ status) {
    this.#status = status;
    this.#options.on.status(status);
  }
}

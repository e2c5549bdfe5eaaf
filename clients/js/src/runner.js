/**
 * Does one thing after the other as long as there is a connection. What fails is tried again after a while; what must not be
 * tried again, the step itself has to settle.
 */

import { backoff } from "./backoff.js";
import { wait } from "./env.js";

export class Runner {
  #env;
  #next;
  #on;
  #waits;
  #live = false;
  #running = false;

  /**
   * @param {import("./env.js").Env} env
   * @param {() => (() => Promise<void>) | null} next the next step, or null: nothing is to be done
   * @param {{ quiet?: () => void, failed?: (error: unknown) => void }} [on] nothing is left to be done; a step failed
   */
  constructor(env, next, on = {}) {
    this.#env = env;
    this.#next = next;
    this.#on = on;
    this.#waits = backoff({ first: 250, most: 10_000, random: env.random });
  }

  /** There is a connection, or something new to be done. */
  go() {
    this.#live = true;
    if (!this.#running) this.#run();
  }

  /** There is something new to be done, if there is a connection. */
  nudge() {
    if (this.#live) this.go();
  }

  /** There is no connection. */
  halt() {
    this.#live = false;
  }

  async #run() {
    this.#running = true;
    while (this.#live) {
      const step = this.#next();
      if (!step) break;
      await this.#try(step);
    }
    this.#running = false;
    if (this.#live) this.#on.quiet?.();
  }

  async #try(/** @type {() => Promise<void>} */ step) {
    try {
      await step();
      this.#waits.reset();
    } catch (error) {
      this.#on.failed?.(error);
      const asked = /** @type {any} */ (error)?.retryAfter ?? 0;
      // Without a connection there is nothing to wait for here.
      if (this.#live) await wait(this.#env, Math.max(asked, this.#waits.next()));
    }
  }
}

// What people do on the page, and what they see there.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";

const SCREENSHOTS = process.env.IM_SCREENSHOTS;

/** A window of a user: a browser context of its own, as on another machine. */
export async function enter(browser, server, user, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 720 }, locale: "en-GB", ...options });
  return signIn(await context.newPage(), server, user);
}

/**
 * Sends as a user who has no window, by the same client, from inside a page; resolves when all of it is acked.
 *
 * @param {Window} window
 * @param {string} user
 * @param {{ to: string } | { group: string }} where
 * @param {string[]} texts
 */
export function sendAs(window, user, where, texts) {
  const say = async ({ user, where, texts }) => {
    const { ChatClient } = await import("/client/src/index.js");
    const headers = { "content-type": "application/json" };
    const login = await fetch("/dev/login", { method: "POST", headers, body: JSON.stringify({ user }) });
    const { token } = await login.json();
    const chat = new ChatClient({ url: `ws://${location.host}/im`, token, user, device: "hands" });
    await chat.start();
    const { id } = where.to ? await chat.openSingle(where.to) : await chat.join(where.group);
    await Promise.all(texts.map((text) => chat.send(id, text)));
    await chat.stop();
  };
  return window.page.evaluate(say, { user, where, texts });
}

/** A further window in the same browser. */
export async function enterBeside(window, server, user) {
  return signIn(await window.page.context().newPage(), server, user);
}

async function signIn(page, server, user) {
  const window = new Window(page, user);
  page.on("pageerror", (error) => window.errors.push(error));
  page.on("console", (message) => message.type() === "error" && window.errors.push(new Error(message.text())));
  await page.goto(server.url);
  await page.locator("#name").fill(user);
  await page.locator("form button[type=submit]").click();
  await window.online();
  return window;
}

export class Window {
  /** What the page complained of: exceptions, refused scripts and styles. */
  errors = [];

  constructor(page, user) {
    this.page = page;
    this.user = user;
    this.messages = page.locator(".messages .message");
  }

  async online() {
    await this.page.locator(".who .status.online").waitFor();
  }

  async message(other) {
    await this.#dialog(0, { person: other });
  }

  async createGroup(name, members) {
    await this.#dialog(1, { "group-name": name, "group-members": members.join(", ") });
  }

  async joinGroup(id) {
    await this.#dialog(2, { "group-id": id });
  }

  async #dialog(section, fields) {
    await this.page.locator("button.new").click();
    const form = this.page.locator("dialog form").nth(section);
    for (const [name, value] of Object.entries(fields)) await form.locator(`[name=${name}]`).fill(value);
    await form.locator("button[type=submit]").click();
    await this.page.locator("dialog").waitFor({ state: "detached" });
    await this.page.locator(".composer textarea").waitFor();
  }

  /** The conversation of this title in the list. */
  row(title) {
    const name = this.page.locator(".name", { hasText: exactly(title) });
    return this.page.locator(".conversation").filter({ has: name });
  }

  async open(title) {
    await this.row(title).click();
    await this.page.locator(".pane .head h2", { hasText: title }).waitFor();
  }

  async write(text) {
    const field = this.page.locator(".composer textarea");
    await field.fill(text);
    await field.press("Enter");
  }

  /** Waits for a message, and for its tick where it is one's own. */
  async sees(text, state) {
    const message = this.messages.filter({ has: this.page.locator(".text", { hasText: exactly(text) }) });
    await (state ? message.and(this.page.locator(`.${state}`)) : message).first().waitFor();
  }

  /** The texts of all messages that are shown, from top to bottom. */
  async texts() {
    return this.page.locator(".messages .text").allTextContents();
  }

  /** Waits for the unread number of a conversation; 0: none is shown. */
  async unread(title, count) {
    const badge = this.row(title).locator(".badge");
    if (count === 0) await badge.waitFor({ state: "detached" });
    else await badge.filter({ hasText: exactly(String(count)) }).waitFor();
  }

  async screenshot(name) {
    if (!SCREENSHOTS) return;
    await mkdir(SCREENSHOTS, { recursive: true });
    await this.page.screenshot({ path: join(SCREENSHOTS, `${name}.png`) });
  }
}

function exactly(text) {
  return new RegExp(`^${text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")}$`);
}

/** The page: signs in, then puts list, conversation and connection together. */

import { ChatClient } from "/client/src/index.js";
import { groupInfo, newChat } from "./dialogs.js";
import { avatar, button, el, soon } from "./dom.js";
import { icon } from "./icons.js";
import { ConversationList } from "./list.js";
import { showLogin } from "./login.js";
import { Pane } from "./pane.js";
import { device, expire, signOut, signedIn, token } from "./session.js";
import { showBanner, showStatus } from "./status.js";
import { inWords, language, switchLanguage, words } from "./words.js";

const root = document.body;
const socket = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/im`;
/** Reasons for which one has to sign in again; the others only ask whether to go on here. */
const SIGN_IN = ["unauthorized", "token_expired"];

document.documentElement.lang = language;

async function begin(note) {
  const user = signedIn();
  if (user === null) return showLogin(root, { note, done: () => begin() });
  const chat = new ChatClient({
    url: socket,
    token: (again) => token(user, again),
    user,
    device: await device(),
    storage: sessionStorage,
  });
  const page = new Page(chat);
  const toLogin = (why) => {
    history.replaceState(null, "", location.pathname);
    begin(why);
  };
  page.onSignOut = async () => {
    const count = unsent(chat);
    if (count > 0 && !confirm(words.signOutUnsent(count))) return;
    page.end();
    await chat.forget();
    signOut();
    toLogin();
  };
  // The server's doing, not the user's: what was written and not sent is kept, and goes out after signing in again.
  const sentAway = async () => {
    page.end();
    const count = unsent(chat);
    await chat.stop();
    expire();
    toLogin(count > 0 ? words.againUnsent(count) : words.again);
  };
  chat.on("status", ({ state, reason }) => state === "closed" && SIGN_IN.includes(reason) && sentAway());
  await chat.start();
  page.route();
  return undefined;
}

class Page {
  onSignOut = () => {};

  constructor(chat) {
    this.chat = chat;
    const open = (id) => this.go(id);
    this.list = new ConversationList(chat, open);
    this.pane = new Pane(chat, {
      back: () => this.go(null),
      info: (id) => groupInfo(chat, id),
      problem: (text) => this.toast(text),
    });
    this.status = el("div");
    this.banner = el("div", { role: "status" });
    this.toasts = el("div", { class: "toasts", role: "alert" });
    const render = soon(() => this.render());
    const off = ["conversation", "removed", "unread", "outbox"].map((name) => chat.on(name, render));
    off.push(showStatus(this.status, chat), showBanner(this.banner, chat), chat.on("failed", ({ error }) => this.#failed(error)));
    const listeners = [
      [window, "hashchange", () => this.route()],
      [window, "online", () => chat.wake()],
      [document, "visibilitychange", () => (document.visibilityState === "visible" ? chat.wake() : chat.flush())],
      [window, "pagehide", () => chat.flush()],
    ];
    listeners.forEach(([target, name, run]) => target.addEventListener(name, run));
    this.off = [...off, ...listeners.map(([target, name, run]) => () => target.removeEventListener(name, run))];
    root.replaceChildren(el("div", { class: "app" }, this.banner, this.#side(open), el("main", {}, this.pane.element)), this.toasts);
    this.render();
  }

  #side(open) {
    const { user } = this.chat;
    const start = el("button", { class: "primary new", type: "button", onclick: () => newChat(this.chat, open) }, icon("plus"), words.newChat);
    const me = el(
      "header",
      { class: "head me" },
      avatar(user),
      el("div", { class: "who" }, el("bdi", { class: "name", title: `${words.signedInAs} ${user}` }, user), this.status),
      button(words.otherLanguage, { class: "plain", onclick: switchLanguage }),
      button(words.signOut, { class: "icon sign-out", onclick: () => this.onSignOut() }, icon("power")),
    );
    return el("aside", { class: "side" }, me, start, this.list.element);
  }

  /** The open conversation stands in the address, so that the browser's "back" closes it and a reload opens it again. */
  go(id) {
    location.hash = id === null ? "" : `#/${encodeURIComponent(id)}`;
  }

  route() {
    const id = address();
    const known = id !== null && this.chat.conversation(id) !== undefined;
    // First: what is not shown has no height, and the field takes its text's.
    root.classList.toggle("reading", known);
    if (known) this.pane.open(id);
    else this.pane.close();
    this.render();
  }

  render() {
    // A conversation in the address may come only with the first answers of the server.
    const id = address();
    if (id !== this.pane.id && (id === null || this.chat.conversation(id))) return this.route();
    const { total } = this.chat.unread;
    document.title = total > 0 ? `(${total}) ${words.title}` : words.title;
    return this.list.render(this.pane.id);
  }

  toast(text) {
    const note = el("p", { class: "toast" }, text);
    this.toasts.append(note);
    setTimeout(() => note.remove(), 6_000);
  }

  #failed(error) {
    console.warn(error);
    if (error?.name === "QuotaExceededError") this.toast(words.storage);
    else if (error?.code === "internal") this.toast(inWords(error));
  }

  end() {
    this.off.forEach((off) => off());
    this.pane.end();
    document.querySelectorAll("dialog").forEach((one) => one.close());
  }
}

/** How many messages wait to be sent. */
function unsent(chat) {
  const outgoing = chat.conversations().flatMap(({ id }) => chat.outgoing(id));
  return outgoing.filter(({ state }) => state === "pending").length;
}

function address() {
  const [, id] = location.hash.split("/");
  try {
    return id ? decodeURIComponent(id) : null;
  } catch {
    return null;
  }
}

begin();

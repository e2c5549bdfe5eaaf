/** The open conversation: its messages, older ones on the way up, the field to write in. */

import { avatar, button, el, soon } from "./dom.js";
import { title } from "./format.js";
import { icon } from "./icons.js";
import { items, render } from "./messages.js";
import { bytes } from "./names.js";
import { inWords, words } from "./words.js";

/** Within so many pixels of the end one is at the end. */
const NEAR = 60;
/** So many pixels before the upper end the next page is loaded. */
const AHEAD = 600;
/** So many pages at most are loaded to begin at the first unread message. */
const PAGES = 20;

export class Pane {
  #chat;
  #on;
  #window = null;
  #unreadAfter = null;
  /** Whether what is read first stands there and is shown. Until then nothing is scrolled, and nothing counts as read. */
  #begun = false;
  /** How many pages are still loaded to reach the first unread message. */
  #pagesLeft = 0;
  /** What was written and not sent, by conversation. @type {Map<string, string>} */
  #drafts = new Map();
  #parts;
  #off;

  /**
   * @param {import("/client/src/index.js").ChatClient} chat
   * @param {{ back: () => void, info: (id: string) => void, problem: (text: string) => void }} on
   */
  constructor(chat, on) {
    this.#chat = chat;
    this.#on = on;
    this.#parts = this.#build();
    this.element = el("section", { class: "pane" });
    this.#off = [
      chat.on("message", ({ conversation, own }) => conversation === this.id && own && (this.#toEndSoon = true)),
      chat.on("conversation", ({ conversation }) => conversation.id === this.id && this.#changed()),
      chat.on("synced", () => this.#read()),
    ];
    document.addEventListener("visibilitychange", this.#read);
    window.addEventListener("focus", this.#read);
    new ResizeObserver(() => this.#keepAtEnd()).observe(this.#parts.scroller);
    this.#nothing();
  }

  /** The open conversation's id. */
  get id() {
    return this.#window?.conversation ?? null;
  }

  close() {
    this.#leave();
    this.#window = null;
    this.#nothing();
  }

  /** The page is left for good. */
  end() {
    this.close();
    this.#off.forEach((off) => off());
    document.removeEventListener("visibilitychange", this.#read);
    window.removeEventListener("focus", this.#read);
  }

  #leave() {
    if (this.#window === null) return;
    this.#drafts.set(this.id, this.#parts.field.value);
    this.#window.close();
  }

  async open(id) {
    if (id === this.id) return;
    this.#leave();
    const conversation = this.#chat.conversation(id);
    this.#unreadAfter = conversation?.unread > 0 ? Math.max(conversation.read.seq, conversation.joined.seq - 1) : null;
    this.#begun = false;
    this.#pagesLeft = PAGES;
    this.#oldest = undefined;
    const { composer, field, messages, down } = this.#parts;
    messages.replaceChildren();
    down.hidden = true;
    this.element.replaceChildren(this.#parts.head, this.#parts.body, composer);
    const window = this.#chat.window(id, soon(() => window === this.#window && this.#render()));
    window.atEnd = false;
    this.#window = window;
    this.#renderHead();
    field.value = this.#drafts.get(id) ?? "";
    this.#typed();
    // On a phone the keyboard would cover what one wants to read first.
    if (matchMedia("(pointer: fine)").matches) field.focus();
    await this.#loading(window.open());
  }

  /** Where reading begins: at the first unread message, if they do not all fit. The end of each page comes here again. */
  #begin() {
    const { scroller, messages } = this.#parts;
    const window = this.#window;
    if (window.loading || (window.records.length === 0 && !window.complete)) return;
    if (this.#unreadAfter !== null && !window.complete && window.records[0].seq > this.#unreadAfter + 1 && this.#pagesLeft > 0) {
      this.#pagesLeft -= 1;
      this.#loading(window.older());
      return;
    }
    this.#begun = true;
    this.#show();
    const line = messages.querySelector(".divider");
    this.#toEnd();
    if (line && line.offsetTop < scroller.scrollTop) scroller.scrollTop = line.offsetTop - 12;
    this.#scrolled();
  }

  async #loading(loaded) {
    try {
      await loaded;
    } catch (error) {
      this.#pagesLeft = 0;
      this.#on.problem(inWords(error));
    }
  }

  #build() {
    const head = el("header", { class: "head" });
    const messages = el("div", { class: "messages", role: "log", "aria-live": "polite" });
    const top = el("p", { class: "top hint" });
    const scroller = el("div", { class: "scroller", tabIndex: 0, onscroll: () => this.#scrolled() }, top, messages);
    const down = button(words.toEnd, { class: "down", hidden: true, onclick: () => this.#toEnd(true) }, icon("down"));
    const body = el("div", { class: "body" }, scroller, down);
    const field = el("textarea", {
      rows: 1,
      "aria-label": words.message,
      placeholder: words.message,
      enterKeyHint: "send",
      oninput: () => this.#typed(),
      onkeydown: (event) => this.#key(event),
    });
    const submit = button(words.send, { class: "primary send", type: "submit" }, icon("send"));
    const problem = el("p", { class: "problem", role: "alert" });
    const gone = el("p", { class: "hint gone", hidden: true }, words.left);
    const composer = el("form", { class: "composer", onsubmit: (event) => this.#send(event) }, problem, field, submit, gone);
    return { head, messages, top, scroller, down, body, problem, field, submit, gone, composer };
  }

  #nothing() {
    const hint = el("p", { class: "hint" }, words.chooseHint);
    this.element.replaceChildren(el("div", { class: "nothing" }, el("p", {}, words.choose), hint));
  }

  #renderHead() {
    const conversation = this.#chat.conversation(this.id);
    const { head, field, submit, gone } = this.#parts;
    if (!conversation) return;
    const name = title(conversation);
    const group = conversation.kind === "GROUP";
    const stamp = JSON.stringify([name, group, conversation.left, conversation.settings.undisturbed]);
    if (head.dataset.stamp === stamp) return;
    head.dataset.stamp = stamp;
    head.replaceChildren(
      button(words.back, { class: "icon back", onclick: () => this.#on.back() }, icon("back")),
      avatar(name),
      el("h2", {}, el("bdi", {}, name)),
      this.#muteButton(conversation),
      group ? button(words.info, { class: "icon info", onclick: () => this.#on.info(conversation.id) }, icon("info")) : "",
    );
    const left = conversation.left !== undefined;
    field.hidden = submit.hidden = left;
    gone.hidden = !left;
  }

  #muteButton({ id, settings: { undisturbed } }) {
    const set = () => this.#loading(this.#chat.set(id, { undisturbed: !undisturbed }));
    const props = { class: "icon mute-button", "aria-pressed": String(undisturbed), onclick: set };
    return button(undisturbed ? words.unmute : words.mute, props, icon(undisturbed ? "silent" : "bell"));
  }

  #render() {
    const { scroller } = this.#parts;
    const atEnd = this.#atEnd();
    const fromEnd = scroller.scrollHeight - scroller.scrollTop;
    const oldest = this.#window.records[0]?.seq;
    const grewUpwards = this.#oldest !== undefined && oldest < this.#oldest;
    this.#oldest = oldest;
    this.#show();
    if (!this.#begun) return this.#begin();
    if (atEnd) this.#toEnd();
    // What one reads stays where it is while older messages come in above it.
    else if (grewUpwards) scroller.scrollTop = scroller.scrollHeight - fromEnd;
    return this.#scrolled();
  }

  #show() {
    const { messages, top } = this.#parts;
    const { conversation, records, outgoing, complete } = this.#window;
    const group = this.#chat.conversation(conversation)?.kind === "GROUP";
    const view = { me: this.#chat.user, group, unreadAfter: this.#unreadAfter };
    render(messages, items({ records: this.#begun ? records : [], outgoing }, view), {
      retry: (id) => this.#chat.retry(id),
      discard: (id) => this.#chat.discard(id),
    });
    const loading = this.#window.loading || !this.#begun;
    top.textContent = loading ? words.loading : complete ? words.beginning : "";
  }

  #oldest;

  #changed() {
    this.#renderHead();
    this.#renderDown();
  }

  #toEndSoon = false;

  #atEnd() {
    const { scroller } = this.#parts;
    if (this.#toEndSoon) return true;
    return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR;
  }

  #keepAtEnd() {
    if (this.#window?.atEnd) this.#toEnd();
  }

  #toEnd(smoothly = false) {
    const { scroller } = this.#parts;
    this.#toEndSoon = false;
    scroller.scrollTo({ top: scroller.scrollHeight, behavior: smoothly ? "smooth" : "instant" });
  }

  #scrolled() {
    const { scroller } = this.#parts;
    const window = this.#window;
    if (!window || !this.#begun) return;
    window.atEnd = this.#atEnd();
    this.#renderDown();
    if (scroller.scrollTop < AHEAD && !window.complete && !window.loading) this.#loading(window.older());
    this.#read();
  }

  /** Nothing is read before the end is reached, so what is unread is what is new below. */
  #renderDown() {
    const { down } = this.#parts;
    const unread = this.#chat.conversation(this.id)?.unread ?? 0;
    down.hidden = !this.#begun || this.#window.atEnd;
    down.replaceChildren(icon("down"), unread > 0 ? words.newBelow(unread) : "");
  }

  /** Somebody looks at the newest message: everything is read. */
  #read = () => {
    const looking = document.visibilityState === "visible" && document.hasFocus();
    if (this.#window?.atEnd && !this.#window.loading && looking) this.#chat.markRead(this.#window.conversation);
  };

  #key(event) {
    // With an input method Enter takes a suggestion.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    this.#parts.composer.requestSubmit();
  }

  #send(event) {
    event.preventDefault();
    const { field } = this.#parts;
    const text = field.value.trim();
    if (text === "" || this.id === null || this.#isTooLong(text)) return;
    try {
      this.#toEndSoon = true;
      this.#unreadAfter = null;
      this.#chat.send(this.id, text);
      field.value = "";
      this.#typed();
    } catch (error) {
      this.#on.problem(inWords(error));
    }
    field.focus();
  }

  /** Says so; the text stays in the field. Before the server has said its limit, it refuses by itself. */
  #isTooLong(text) {
    const most = this.#chat.limits?.content_bytes ?? Infinity;
    const length = bytes(text);
    if (length > most) this.#parts.problem.textContent = words.messageTooLong(length, most);
    return length > most;
  }

  #typed() {
    this.#parts.problem.textContent = "";
    this.#grow();
  }

  /** The field is as high as its text, up to a limit that the style sheet sets. */
  #grow() {
    const { field } = this.#parts;
    field.rows = Math.min(6, Math.max(1, field.value.split("\n").length));
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight}px`;
  }
}

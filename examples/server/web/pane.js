/** The open conversation: its messages, older ones on the way up, the field to write in. */

import { avatar, button, el, soon } from "./dom.js";
import { title } from "./format.js";
import { icon } from "./icons.js";
import { items, render } from "./messages.js";
import { inWords, words } from "./words.js";

/** Within so many pixels of the end one is at the end. */
const NEAR = 60;
/** So many pixels before the upper end the next page is loaded. */
const AHEAD = 600;

export class Pane {
  #chat;
  #on;
  #window = null;
  #unreadAfter = null;
  /** Messages that came while the reader was further up. */
  #below = 0;
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
      chat.on("message", ({ conversation, own }) => conversation === this.id && this.#came(own)),
      chat.on("conversation", ({ conversation }) => conversation.id === this.id && this.#renderHead()),
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
    this.#window?.close();
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

  async open(id) {
    if (id === this.id) return;
    this.#window?.close();
    const conversation = this.#chat.conversation(id);
    this.#unreadAfter = conversation?.unread > 0 ? Math.max(conversation.read.seq, conversation.joined.seq - 1) : null;
    this.#below = 0;
    const { composer, field, messages } = this.#parts;
    messages.replaceChildren();
    this.element.replaceChildren(this.#parts.head, this.#parts.body, composer);
    const window = this.#chat.window(id, soon(() => window === this.#window && this.#render()));
    this.#window = window;
    this.#renderHead();
    field.value = "";
    this.#grow();
    // On a phone the keyboard would cover what one wants to read first.
    if (matchMedia("(pointer: fine)").matches) field.focus();
    await this.#loading(window.open());
    if (window === this.#window) this.#begin();
  }

  /** Where reading begins: at the first unread message, if they do not all fit. */
  #begin() {
    const { scroller, messages } = this.#parts;
    this.#render();
    const line = messages.querySelector(".divider");
    this.#toEnd();
    if (line && line.offsetTop < scroller.scrollTop) scroller.scrollTop = line.offsetTop - 12;
    this.#scrolled();
  }

  async #loading(loaded) {
    try {
      await loaded;
    } catch (error) {
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
      oninput: () => this.#grow(),
      onkeydown: (event) => this.#key(event),
    });
    const submit = button(words.send, { class: "primary send", type: "submit" }, icon("send"));
    const gone = el("p", { class: "hint gone", hidden: true }, words.left);
    const composer = el("form", { class: "composer", onsubmit: (event) => this.#send(event) }, field, submit, gone);
    return { head, messages, top, scroller, down, body, field, submit, gone, composer };
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
    const { messages, top, scroller } = this.#parts;
    const window = this.#window;
    const atEnd = this.#atEnd();
    const fromEnd = scroller.scrollHeight - scroller.scrollTop;
    const group = this.#chat.conversation(window.conversation)?.kind === "GROUP";
    const view = { me: this.#chat.user, group, unreadAfter: this.#unreadAfter };
    const oldest = window.records[0]?.seq;
    const grewUpwards = this.#oldest !== undefined && oldest < this.#oldest;
    this.#oldest = oldest;
    render(messages, items(window, view), {
      retry: (id) => this.#chat.retry(id),
      discard: (id) => this.#chat.discard(id),
    });
    top.textContent = window.loading ? words.loading : window.complete && window.records.length > 0 ? words.beginning : "";
    if (atEnd) this.#toEnd();
    // What one reads stays where it is while older messages come in above it.
    else if (grewUpwards) scroller.scrollTop = scroller.scrollHeight - fromEnd;
    this.#scrolled();
  }

  #oldest;

  #came(own) {
    if (own) this.#toEndSoon = true;
    else if (!this.#atEnd()) this.#below += 1;
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
    const { scroller, down } = this.#parts;
    const window = this.#window;
    if (!window) return;
    window.atEnd = this.#atEnd();
    if (window.atEnd) this.#below = 0;
    down.hidden = window.atEnd;
    down.replaceChildren(icon("down"), this.#below > 0 ? words.newBelow(this.#below) : "");
    if (scroller.scrollTop < AHEAD && !window.complete && !window.loading) this.#loading(window.older());
    this.#read();
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
    if (text === "" || this.id === null) return;
    try {
      this.#toEndSoon = true;
      this.#unreadAfter = null;
      this.#chat.send(this.id, text);
      field.value = "";
      this.#grow();
    } catch (error) {
      this.#on.problem(inWords(error));
    }
    field.focus();
  }

  /** The field is as high as its text, up to a limit that the style sheet sets. */
  #grow() {
    const { field } = this.#parts;
    field.rows = Math.min(6, Math.max(1, field.value.split("\n").length));
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight}px`;
  }
}

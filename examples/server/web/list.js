/** The list of conversations. */

import { avatar, el, list } from "./dom.js";
import { listTime, preview, title } from "./format.js";
import { icon } from "./icons.js";
import { words } from "./words.js";

export class ConversationList {
  #chat;
  #open;
  #items;
  #empty;

  /**
   * @param {import("/client/src/index.js").ChatClient} chat
   * @param {(id: string) => void} open
   */
  constructor(chat, open) {
    this.#chat = chat;
    this.#open = open;
    this.#items = el("ul", { class: "conversations", onkeydown: (event) => this.#move(event) });
    this.#empty = el("div", { class: "nothing" }, el("p", {}, words.empty), el("p", { class: "hint" }, words.emptyHint));
    this.element = el("nav", { class: "list", "aria-label": words.conversations }, this.#items, this.#empty);
  }

  /** Shows the conversations as they are; `current` is the open one. */
  render(current) {
    const me = this.#chat.user;
    const all = this.#chat.conversations().map((conversation) => ({ conversation, waiting: this.#waiting(conversation.id) }));
    const shown = all.filter(({ conversation: { last, id }, waiting }) => last || waiting || id === current);
    const items = shown.map(({ conversation, waiting }) => ({
      key: conversation.id,
      title: title(conversation),
      preview: preview(conversation, me, waiting),
      pending: waiting?.state === "pending",
      time: listTime(waiting?.at ?? conversation.last?.created_at ?? conversation.created_at),
      unread: conversation.unread,
      quiet: conversation.settings.undisturbed,
      current: conversation.id === current,
    }));
    const focused = document.activeElement?.closest?.(".conversation")?.dataset.id;
    list(this.#items, items, (item) => this.#item(item));
    this.#empty.hidden = items.length > 0;
    // An item that was made anew has lost the focus.
    if (focused !== undefined && !document.activeElement?.closest?.(".conversation")) this.#focus(focused);
  }

  /** The newest message on its way; one that was sent is on it until its record is here. */
  #waiting(id) {
    return this.#chat.outgoing(id).findLast(({ state }) => state !== "refused");
  }

  #item({ key, title: name, preview: text, pending, time, unread, quiet, current }) {
    const badge = unread > 0 ? el("span", { class: quiet ? "badge quiet" : "badge", title: words.unread(unread) }, many(unread)) : null;
    const spoken = unread > 0 ? el("span", { class: "spoken" }, words.unread(unread)) : null;
    const mute = quiet ? el("span", { class: "mute", title: words.muted, role: "img", "aria-label": words.muted }, icon("silent")) : null;
    const wait = pending ? el("span", { class: "mute", title: words.pending, role: "img", "aria-label": words.pending }, icon("wait")) : null;
    const row = el(
      "button",
      { class: "conversation", type: "button", onclick: () => this.#open(key), ...(current ? { "aria-current": "true" } : {}) },
      avatar(name),
      el("span", { class: "line" }, el("bdi", { class: "name" }, name), mute, el("time", {}, time)),
      el("span", { class: "line" }, wait, el("bdi", { class: "preview" }, text), badge, spoken),
    );
    row.dataset.id = key;
    return el("li", {}, row);
  }

  /** Up and down go through the list. */
  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const rows = [...this.#items.querySelectorAll(".conversation")];
    rows[rows.indexOf(document.activeElement) + step]?.focus();
    event.preventDefault();
  }

  #focus(id) {
    [...this.#items.querySelectorAll(".conversation")].find((row) => row.dataset.id === id)?.focus();
  }
}

function many(count) {
  return count > 99 ? "99+" : String(count);
}

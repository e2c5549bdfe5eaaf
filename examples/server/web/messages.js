/** The messages of the open conversation: what stands there, and how it looks. */

import { avatar, button, el, list, tint } from "./dom.js";
import { clock, day, membersText, messageText } from "./format.js";
import { icon } from "./icons.js";
import { withLinks } from "./links.js";
import { inWords, words } from "./words.js";

/** Messages of one sender within so many milliseconds stand together. */
const TOGETHER = 5 * 60_000;

/**
 * What there is to show, from top to bottom, as plain values.
 *
 * @param {{ records: any[], outgoing: any[] }} window
 * @param {{ me: string, group: boolean, unreadAfter: number | null }} view `unreadAfter`: where the line above the first unread
 *   message stands
 */
export function items({ records, outgoing }, { me, group, unreadAfter }) {
  const shown = [...records.map((record) => fromRecord(record, me)), ...outgoing.map(fromOutgoing)].filter((one) => one !== null);
  const all = [];
  let before = null;
  let lined = unreadAfter === null;
  for (const item of shown) {
    const heading = day(item.at);
    if (heading !== before?.heading) all.push({ key: `day ${heading} ${item.key}`, kind: "day", text: heading });
    if (!lined && item.seq > unreadAfter && item.kind === "message" && !item.mine) {
      all.push({ key: "unread", kind: "unread" });
      before = null;
      lined = true;
    }
    const follows = before?.kind === "message" && before.from === item.from && item.at - before.at < TOGETHER;
    const { at, ...rest } = item;
    all.push(item.kind === "message" ? { ...rest, time: clock(at), first: !(follows && heading === before.heading), group } : rest);
    before = { ...item, heading };
  }
  return all;
}

function fromRecord(record, me) {
  const { seq, from, kind, client_msg_id: id, created_at: at } = record;
  if (kind === "message") {
    const mine = from === me;
    return { key: mine ? `m ${id}` : `r ${seq}`, kind, seq, from, mine, text: messageText(record), at, state: "sent" };
  }
  const text = kind === "members" ? membersText(record, me) : kind === "notice" ? record.content : null;
  return text === null ? null : { key: `r ${seq}`, kind: "notice", seq, at, text };
}

function fromOutgoing({ id, type, content, at, state, error }) {
  const why = error ? inWords(error) : undefined;
  // As long as it is, it is refused each time.
  const again = error?.code !== "too_large";
  return { key: `m ${id}`, kind: "message", from: null, mine: true, text: messageText({ type, content }), at, state, id, why, again };
}

/**
 * Shows them.
 *
 * @param {Element} parent
 * @param {ReturnType<typeof items>} all
 * @param {{ retry: (id: string) => void, discard: (id: string) => void }} on
 */
export function render(parent, all, on) {
  list(parent, all, (item) => {
    if (item.kind === "message") return message(item, on);
    if (item.kind === "unread") return el("div", { class: "divider", role: "separator" }, el("span", {}, words.newMessages));
    return el("div", { class: item.kind }, el("span", {}, item.text));
  });
}

function message(item, on) {
  const { mine, first, group, from, text, time, state } = item;
  const classes = ["message", mine ? "mine" : "theirs", first ? "first" : "", state].filter(Boolean);
  const name = !mine && group && first ? el("bdi", { class: `from ${tint(from)}` }, from) : null;
  const face = !mine && group ? (first ? avatar(from) : el("span", { class: "avatar none" })) : null;
  const tick = mine ? ticks(state) : null;
  const meta = el("span", { class: "meta" }, el("time", {}, time), tick);
  const bubble = el("div", { class: "bubble" }, name, el("span", { class: "text", dir: "auto" }, ...withLinks(text)), meta);
  const element = el("div", { class: classes.join(" ") }, face, bubble, state === "refused" ? refusal(item, on) : null);
  if (item.seq !== undefined) element.dataset.seq = String(item.seq);
  return element;
}

function ticks(state) {
  const [label, sign] = { pending: [words.pending, "wait"], sent: [words.sent, "check"], refused: [words.refused, "alert"] }[state];
  return el("span", { class: "tick", role: "img", "aria-label": label, title: label }, icon(sign));
}

function refusal({ id, why, again }, on) {
  return el(
    "div",
    { class: "refusal", role: "alert" },
    el("span", {}, `${words.refused}: ${why} `),
    again ? button(words.retry, { class: "link", onclick: () => on.retry(id) }) : null,
    button(words.discard, { class: "link", onclick: () => on.discard(id) }),
  );
}

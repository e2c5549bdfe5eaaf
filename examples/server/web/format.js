/** Names, times and previews, as people read them. */

import { language, words } from "./words.js";

const LOCALE = language === "zh" ? "zh-CN" : "en-GB";
const CLOCK = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(LOCALE, { month: "short", day: "numeric", weekday: "short" });
const FULL_DAY = new Intl.DateTimeFormat(LOCALE, { year: "numeric", month: "short", day: "numeric" });
const SHORT_DAY = new Intl.DateTimeFormat(LOCALE, { year: "2-digit", month: "2-digit", day: "2-digit" });

const midnight = (time) => new Date(time).setHours(0, 0, 0, 0);
/** Days from one midnight to another; a day may have 23 hours. */
const daysSince = (time) => Math.round((midnight(Date.now()) - midnight(time)) / 86_400_000);

export const clock = (time) => CLOCK.format(time);

/** The day that a stretch of messages is headed with. */
export function day(time) {
  const days = daysSince(time);
  if (days === 0) return words.today;
  if (days === 1) return words.yesterday;
  return new Date(time).getFullYear() === new Date().getFullYear() ? DAY.format(time) : FULL_DAY.format(time);
}

/** The time in the list: today's clock, else the day. */
export function listTime(time) {
  const days = daysSince(time);
  if (days === 0) return clock(time);
  return days === 1 ? words.yesterday : SHORT_DAY.format(time);
}

/** What a conversation is called. */
export function title(conversation) {
  return conversation.settings.nickname || conversation.peer || conversation.name || conversation.id;
}

/** The text of a message; of a structured one what it is. */
export function messageText({ type, content }) {
  return type === "text" ? content : (words.types[type] ?? words.types.custom);
}

/** What a change of members says; null: nothing worth a line. */
export function membersText({ from, content }, me) {
  const change = parse(content);
  const name = (user) => (user === me ? words.you : user);
  const names = (users) => users.map(name).join(words.and);
  const join = (change.join ?? []).map(([user]) => user);
  const leave = change.leave ?? [];
  if (change.create) return words.created(name(from), change.create.name);
  if (join.length > 0) return join.length === 1 && join[0] === from ? words.joined(name(from)) : words.added(name(from), names(join));
  if (leave.length > 0) {
    return leave.length === 1 && leave[0] === from ? words.leftGroup(name(from)) : words.removed(name(from), names(leave));
  }
  const [[user, role] = []] = change.role ?? [];
  return user === undefined ? null : words.role(name(user), words.roles[role] ?? role);
}

/** One line about a conversation: the newest message on its way, else its last record. */
export function preview(conversation, me, waiting) {
  const record = waiting ? { kind: "message", from: me, ...waiting } : conversation.last;
  if (!record) return words.noMessages;
  if (record.kind === "members") return membersText(record, me) ?? "";
  if (record.kind !== "message") return record.kind === "notice" ? record.content : "";
  const text = messageText(record);
  if (record.from === me) return `${words.you}: ${text}`;
  return conversation.kind === "GROUP" ? `${record.from}: ${text}` : text;
}

function parse(content) {
  try {
    return JSON.parse(content) ?? {};
  } catch {
    return {};
  }
}

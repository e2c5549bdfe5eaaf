/**
 * A conversation as the client keeps it: what the server said, where the client stands, what it read. Values, never changed in
 * place.
 *
 * @typedef {import("./wire.js").Mark} Mark
 * @typedef {import("./wire.js").WireConversation} WireConversation
 * @typedef {import("./wire.js").WireRecord} WireRecord
 *
 * @typedef {WireConversation & { mark: Mark | null, reading: Mark | null }} Conversation
 *   `mark`: the last record taken in order; null until the first one comes.
 *   `reading`: what was read here and the server has not confirmed.
 */

import { firstMark } from "./timeline.js";
import { further, unread } from "./unread.js";

/** @param {Conversation} conversation @returns {Conversation} */
function counted(conversation) {
  const { read, reading } = conversation;
  return { ...conversation, unread: unread({ ...conversation, read: reading ? further(read, reading) : read }) };
}

/**
 * One that the client learned of: its records are still to come.
 *
 * @param {WireConversation} view
 * @returns {Conversation}
 */
export function met(view) {
  return counted({ ...view, mark: null, reading: null });
}

/**
 * One as of a bootstrap: everything up to its head counts as taken.
 *
 * @param {WireConversation} view
 * @param {Conversation | undefined} known
 * @returns {Conversation}
 */
export function booted(view, known) {
  const mark = view.head.seq > 0 ? view.head : before(view);
  return counted({ ...view, mark, reading: known?.reading ?? null });
}

/**
 * What the server says now, over what is known.
 *
 * @param {Conversation} known
 * @param {WireConversation} view
 * @returns {Conversation}
 */
export function merged(known, view) {
  // The inbox may be ahead of the store that made the view.
  const ahead = known.head.seq > view.head.seq;
  const { mark, reading } = known;
  const read = further(known.read, view.read);
  const newest = ahead ? { head: known.head, last: known.last } : {};
  return counted({ ...view, ...newest, read, mark, reading: beyond(reading, read) });
}

/**
 * After its next record was taken.
 *
 * @param {Conversation} conversation
 * @param {WireRecord} record
 * @param {boolean} own it is a read mark of this device
 * @returns {Conversation}
 */
export function taken(conversation, record, own) {
  const at = { seq: record.seq, ordinal: record.ordinal };
  const { hole_after: hole } = record;
  const settle = (/** @type {Mark} */ mark) => (hole === undefined ? mark : outOfHole(mark, hole, record));
  const read = settle(conversation.read);
  const reading = conversation.reading && settle(conversation.reading);
  const settings = { ...conversation.settings, cleared: settle(conversation.settings.cleared) };
  const last = record.seq >= (conversation.last?.seq ?? 0) ? record : conversation.last;
  const head = further(conversation.head, at);
  const now = { head, last, mark: at, read: own ? further(read, at) : read, reading, settings };
  return counted({ ...conversation, ...now });
}

/** A mark that stands where there never was anything counts like the last record below. */
function outOfHole(/** @type {Mark} */ mark, /** @type {number} */ hole, /** @type {WireRecord} */ record) {
  if (mark.seq <= hole || mark.seq >= record.seq) return mark;
  const before = record.ordinal - (record.kind === "message" ? 1 : 0);
  return { seq: mark.seq, ordinal: Math.min(mark.ordinal, before) };
}

/**
 * After its mark was moved over places where nothing is.
 *
 * @param {Conversation} conversation
 * @param {number} seq
 * @returns {Conversation}
 */
export function reached(conversation, seq) {
  return { ...conversation, mark: { seq, ordinal: (conversation.mark ?? before(conversation)).ordinal } };
}

/**
 * One whose first record is about to come: it stands just below where the membership begins.
 *
 * @param {Conversation} conversation
 * @param {number} seq
 * @returns {Conversation}
 */
export function begun(conversation, seq) {
  if (conversation.mark) return conversation;
  return { ...conversation, mark: { seq: firstMark(conversation, seq), ordinal: before(conversation).ordinal } };
}

/**
 * A newer head is known of.
 *
 * @param {Conversation} conversation
 * @param {Mark} head
 * @returns {Conversation}
 */
export function headed(conversation, head) {
  if (head.seq <= conversation.head.seq) return conversation;
  return counted({ ...conversation, head: further(conversation.head, head) });
}

/**
 * The user read up to here, on this device.
 *
 * @param {Conversation} conversation
 * @param {Mark} mark
 * @returns {Conversation}
 */
export function reading(conversation, mark) {
  const wanted = conversation.reading ? further(conversation.reading, mark) : mark;
  return counted({ ...conversation, reading: beyond(wanted, conversation.read) });
}

/**
 * The server says where the read mark stands.
 *
 * @param {Conversation} conversation
 * @param {Mark} mark
 * @returns {Conversation}
 */
export function confirmed(conversation, mark) {
  const read = further(conversation.read, mark);
  return counted({ ...conversation, read, reading: beyond(conversation.reading, read) });
}

/** What is still to be told, when the read mark stands at `read`. */
function beyond(/** @type {Mark | null} */ wanted, /** @type {Mark} */ read) {
  return wanted && wanted.seq > read.seq ? { seq: wanted.seq, ordinal: wanted.ordinal } : null;
}

function before(/** @type {WireConversation} */ { joined }) {
  return { seq: joined.seq - 1, ordinal: joined.ordinal };
}

/**
 * How far the user has a right to read.
 *
 * @param {Conversation} conversation
 * @param {number} seq
 */
export function within(conversation, seq) {
  return conversation.left ? Math.min(conversation.left.seq, seq) : seq;
}

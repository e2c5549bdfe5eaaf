/**
 * The protocol `im.v1.json` as this client speaks it: docs/protocol.md. No state, no socket.
 *
 * What the server sends is handed on in the server's own words.
 *
 * @typedef {{ seq: number, ordinal: number }} Mark a sequence id, and how many records up to it count as unread
 *
 * @typedef {{
 *   conversation: string, seq: number, ordinal: number, created_at: number, from: string, client_msg_id: string,
 *   kind: string, type: string, content: string, hole_after?: number,
 * }} WireRecord one record of a timeline; `from` is empty where the system speaks
 *
 * @typedef {{ nickname?: string, hidden: boolean, undisturbed: boolean, cleared: Mark }} Settings
 *
 * @typedef {{
 *   id: string, kind: "SINGLE" | "GROUP", name?: string, peer?: string, created_at: number, large: boolean, role: string,
 *   joined: Mark, left?: Mark, head: Mark, last?: WireRecord, read: Mark, unread: number, settings: Settings,
 * }} WireConversation a conversation as the user has it
 *
 * @typedef {{ cursor: string, record: WireRecord }} Entry
 * @typedef {{ conversation: string, seq: number, ordinal: number }} Head
 * @typedef {{ user: string, role: string, nickname?: string }} Member
 * @typedef {{ conversation: string, seq: number, created_at: number, duplicate: boolean, level: "logged" | "stored" }} Ack
 * @typedef {{ content_bytes: number, frame_bytes: number, page: number, [limit: string]: number }} Limits
 * @typedef {{ op: string, [field: string]: any }} Op what is asked
 */

import { ChatError } from "./error.js";

/** The WebSocket subprotocol. */
export const SUBPROTOCOL = "im.v1.json";
/** The longest frame that servers take unless they say otherwise, in bytes. */
export const FRAME_BYTES = 128 * 1024;

/**
 * What a client can ask. A field that is undefined is left out.
 */
export const op = {
  hello: (/** @type {{ token: string, device: string, platform?: string, cursor?: string, state?: string }} */ body) =>
    ask("hello", body),
  send: (
    /** @type {{ conversation: string, client_msg_id: string, type: string, content: string, ack?: "logged" | "stored" }} */ body,
  ) => ask("send", body),
  pull: (/** @type {{ after: string, max?: number }} */ body) => ask("pull", body),
  /** Gets no answer. */
  ack: (/** @type {{ cursor: string }} */ body) => ask("ack", body),
  history: (/** @type {{ conversation: string, from?: number, to?: number, max?: number, backward?: true }} */ body) =>
    ask("history", body),
  markRead: (/** @type {{ conversation: string, seq: number }} */ body) => ask("mark_read", body),
  set: (
    /** @type {{ conversation: string, nickname?: string, hidden?: boolean, undisturbed?: boolean, cleared?: number }} */ body,
  ) => ask("set", body),
  state: (/** @type {{ since?: string }} */ body) => ask("state", body),
  openSingle: (/** @type {{ user: string }} */ body) => ask("open_single", body),
  createGroup: (
    /** @type {{ conversation?: string, name?: string, members: string[], client_msg_id: string }} */ body,
  ) => ask("create_group", body),
  join: (/** @type {{ conversation: string, users?: string[], client_msg_id: string }} */ body) => ask("join", body),
  leave: (/** @type {{ conversation: string, users?: string[], client_msg_id: string }} */ body) => ask("leave", body),
  setRole: (/** @type {{ conversation: string, user: string, role: string, client_msg_id: string }} */ body) =>
    ask("set_role", body),
  conversations: (/** @type {{ after?: string, max?: number, ids?: string[], fresh?: true }} */ body) =>
    ask("conversations", body),
  members: (/** @type {{ conversation: string, after?: string, max?: number }} */ body) => ask("members", body),
  ping: () => ask("ping", {}),
};

/** @param {string} name @param {object} body @returns {Op} */
function ask(name, body) {
  return { op: name, ...body };
}

/**
 * The frame of a request.
 *
 * @param {number | undefined} id comes back in the answer; without one there is none
 * @param {Op} asked
 */
export function encode(id, asked) {
  return JSON.stringify({ id, ...asked });
}

/**
 * A frame of the server.
 *
 * @typedef {{ kind: "ok", re: number, ok: any }
 *   | { kind: "error", re: number | null, error: ChatError }
 *   | { kind: "event", name: string, event: any }
 *   | { kind: "unknown" }} Frame `unknown` is something of a later version, to be passed over
 */

/**
 * Reads a frame.
 *
 * @param {any} data what the socket brought
 * @returns {Frame | null} null: it cannot be read
 */
export function decode(data) {
  const frame = parse(data);
  if (typeof frame !== "object" || frame === null || Array.isArray(frame)) return null;
  if (typeof frame.ev === "string") return { kind: "event", name: frame.ev, event: frame };
  const re = typeof frame.re === "number" ? frame.re : null;
  if (isObject(frame.error)) return { kind: "error", re, error: errorOf(frame.error) };
  if (re !== null && isObject(frame.ok)) return { kind: "ok", re, ok: frame.ok };
  return { kind: "unknown" };
}

function parse(/** @type {any} */ data) {
  try {
    return typeof data === "string" ? JSON.parse(data) : null;
  } catch {
    return null;
  }
}

function isObject(/** @type {any} */ value) {
  return typeof value === "object" && value !== null;
}

/**
 * The server's codes. `transient`: the same request may succeed later. `unknown`: it may have been done.
 *
 * @type {Map<string, { transient?: true, unknown?: true }>}
 */
export const ERRORS = new Map([
  ["malformed", {}],
  ["missing_op", {}],
  ["unknown_op", {}],
  ["wrong_type", {}],
  ["hello_first", {}],
  ["already_hello", {}],
  ["unauthorized", {}],
  ["token_expired", {}],
  ["sessions_full", {}],
  ["invalid", {}],
  ["too_large", {}],
  ["too_fast", { transient: true }],
  ["unknown_conversation", {}],
  ["not_member", {}],
  ["denied", {}],
  ["conflict", {}],
  ["client_clock", {}],
  ["behind", { transient: true }],
  ["overloaded", { transient: true }],
  ["unavailable", { transient: true }],
  ["timeout_unknown", { transient: true, unknown: true }],
  ["internal", { unknown: true }],
]);

/** @param {{ code?: any, message?: any, retry_after_ms?: any, server_time?: any }} body */
function errorOf(body) {
  const code = String(body.code);
  const number = (/** @type {any} */ value) => (typeof value === "number" ? value : undefined);
  return new ChatError(code, String(body.message ?? code), {
    // A code of a later version is treated as `internal`.
    ...(ERRORS.get(code) ?? ERRORS.get("internal")),
    retryAfter: number(body.retry_after_ms),
    serverTime: number(body.server_time),
  });
}

/** What is said with a close code; the codes of the protocol have their names as reasons. */
export const CLOSE_NAMES = new Map([
  [4000, "draining"],
  [4001, "slow"],
  [4002, "silent"],
  [4003, "overloaded"],
  [4004, "token_expired"],
  [4005, "hello_timeout"],
  [4006, "internal"],
  [4500, "kicked"],
  [4501, "unauthorized"],
  [4502, "protocol"],
  [4503, "flood"],
  [4504, "sessions_full"],
  [4505, "too_large"],
]);

/**
 * What the end of a connection means.
 *
 * @param {number} code
 * @returns {{ name: string, final: boolean }} final: the client does not connect again by itself
 */
export function closeMeaning(code) {
  const final = code >= 4500 && code <= 4999;
  return { name: CLOSE_NAMES.get(code) ?? (final ? "refused" : "lost"), final };
}

/**
 * The length of a text in UTF-8. Mini-programs have no `TextEncoder`.
 *
 * @param {string} text
 */
export function utf8Length(text) {
  let bytes = text.length;
  for (let index = 0; index < text.length; index += 1) {
    const unit = text.charCodeAt(index);
    // A pair of surrogates is 2 units and 4 bytes; a lone one is replaced by a character of 3 bytes.
    if (unit >= 0xd800 && unit <= 0xdfff) bytes += isPair(text, index) ? ((index += 1), 2) : 2;
    else if (unit > 0x7ff) bytes += 2;
    else if (unit > 0x7f) bytes += 1;
  }
  return bytes;
}

function isPair(/** @type {string} */ text, /** @type {number} */ index) {
  const [first, second] = [text.charCodeAt(index), text.charCodeAt(index + 1)];
  return first < 0xdc00 && second >= 0xdc00 && second <= 0xdfff;
}

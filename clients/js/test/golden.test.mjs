/** The golden frames of the protocol, as the server's own types wrote them, through this client's encoder and decoder. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";
import { booted, met, merged, taken } from "../src/conversation.js";
import { CLOSE_NAMES, ERRORS, closeMeaning, decode, encode, op, utf8Length } from "../src/wire.js";

const FOLDER = new URL("../../../im-protocol/golden/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(name, FOLDER), "utf8"));
const names = readdirSync(FOLDER).filter((name) => name.endsWith(".json"));
const cases = names.filter((name) => !name.startsWith("table.")).flatMap((name) => {
  return read(name).cases.map((one) => ({ ...one, name: `${name}: ${one.about}`, of: name.split(".").slice(0, 2).join(".") }));
});

/** The name of an operation here. */
const camel = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());

test("there are golden frames of every operation, and this client knows each of them", () => {
  const operations = names.filter((name) => name.startsWith("op.")).map((name) => camel(name.slice(3, -5)));
  assert.deepEqual(Object.keys(op).sort(), operations.sort());
});

test("requests are encoded as the server reads them", () => {
  const requests = cases.filter(({ of, request }) => of.startsWith("op.") && request);
  assert.ok(requests.length >= 16);
  for (const { name, request } of requests) {
    const { id, op: operation, ...body } = request;
    const frame = encode(id, op[camel(operation)](body));
    assert.deepEqual(JSON.parse(frame), request, name);
  }
});

test("what is left out is not in the frame", () => {
  const frame = encode(undefined, op.history({ conversation: "g", to: undefined }));
  assert.equal(frame, '{"op":"history","conversation":"g"}');
});

test("answers are decoded", () => {
  const answers = cases.filter(({ answer }) => answer?.ok);
  assert.ok(answers.length >= 16);
  for (const { name, answer } of answers) {
    assert.deepEqual(decode(JSON.stringify(answer)), { kind: "ok", re: answer.re, ok: answer.ok }, name);
  }
});

test("errors are decoded, each with what its code means", () => {
  const table = read("table.errors.json");
  const errors = cases.filter(({ answer }) => answer?.error);
  assert.deepEqual(new Set(errors.map(({ answer }) => answer.error.code)).size, table.length);
  for (const { name, answer } of errors) {
    const frame = decode(JSON.stringify(answer));
    const { code, message, retry_after_ms: retryAfter = null, server_time: serverTime = null } = answer.error;
    const meaning = table.find((row) => row.code === code);
    assert.deepEqual([frame.kind, frame.re], ["error", answer.re ?? null], name);
    const { error } = frame;
    assert.deepEqual([error.code, error.message, error.retryAfter, error.serverTime], [code, message, retryAfter, serverTime], name);
    assert.deepEqual([error.transient, error.unknown], [meaning.transient, meaning.unknown], name);
  }
});

test("the tables of codes are the server's", () => {
  const rows = read("table.errors.json").map(({ code, transient, unknown }) => [code, transient, unknown]);
  const ours = [...ERRORS].map(([code, { transient = false, unknown = false }]) => [code, transient, unknown]);
  assert.deepEqual(ours.sort(), rows.sort());
  for (const { code, reason, reconnect } of read("table.close.json")) {
    assert.deepEqual(closeMeaning(code), { name: reason, final: !reconnect });
  }
  assert.equal(CLOSE_NAMES.size, read("table.close.json").length);
});

test("a code that is not known is treated as internal", () => {
  const { error } = decode('{"re":1,"error":{"code":"later","message":"x"}}');
  assert.deepEqual([error.code, error.transient, error.unknown], ["later", false, true]);
});

test("events are decoded", () => {
  const events = cases.filter(({ event }) => event);
  assert.deepEqual([...new Set(events.map(({ event }) => event.ev))].sort(), ["draining", "heads", "kicked", "signal", "state"]);
  for (const { name, event } of events) {
    assert.deepEqual(decode(JSON.stringify(event)), { kind: "event", name: event.ev, event }, name);
  }
});

test("what is of a later version is passed over, and what is no frame is told apart", () => {
  for (const frame of ["{}", '{"later":1}', '{"re":"x","ok":{}}', '{"re":1}']) assert.equal(decode(frame).kind, "unknown", frame);
  for (const frame of ["", "[]", "1", "null", "{", '"ok"', new ArrayBuffer(2)]) assert.equal(decode(frame), null);
});

/** Every conversation that any frame shows. */
const views = cases.flatMap(({ name, answer }) => {
  const { conversations = [], changes = [], conversation } = answer?.ok ?? {};
  const single = typeof conversation === "object" ? [conversation] : [];
  return [...conversations, ...changes, ...single].map((view) => ({ name, view }));
});

test("the unread number of every conversation is the one that the server derived", () => {
  assert.ok(views.length >= 3, `${views.length}`);
  for (const { name, view } of views) {
    assert.equal(met(view).unread, view.unread, name);
    assert.equal(booted(view, undefined).unread, view.unread, name);
    assert.equal(merged(booted(view, undefined), view).unread, view.unread, name);
  }
});

test("every record of a signal can be taken", () => {
  const entries = cases.flatMap(({ event }) => event?.entries ?? []);
  assert.ok(entries.length >= 5);
  for (const { record } of entries) {
    const { view } = views[0];
    const conversation = taken(booted({ ...view, left: undefined, head: { seq: 0, ordinal: 0 } }, undefined), record, false);
    assert.deepEqual(conversation.mark, { seq: record.seq, ordinal: record.ordinal });
  }
});

test("lengths are those of UTF-8", () => {
  for (const text of ["", "a", "é", "你好", "👋🏽", "a\ud800b", "\udc00", "x👋\ud83d"]) {
    assert.equal(utf8Length(text), Buffer.byteLength(text), JSON.stringify(text));
  }
});

import assert from "node:assert/strict";
import test from "node:test";
import { booted, confirmed, merged, met, reading, taken } from "../src/conversation.js";
import { unread } from "../src/unread.js";
import { eachSeed } from "./clock.mjs";

const mark = (seq, ordinal = seq) => ({ seq, ordinal });
const settings = (cleared = mark(0)) => ({ hidden: false, undisturbed: false, cleared });

/** A conversation of which the user is a member from its first record on. */
const view = (more = {}) => ({
  id: "g",
  kind: "GROUP",
  created_at: 0,
  large: false,
  role: "member",
  joined: mark(1, 0),
  head: mark(0),
  read: mark(0),
  unread: 0,
  settings: settings(),
  ...more,
});

const record = (seq, more = {}) => ({
  conversation: "g",
  seq,
  ordinal: seq,
  created_at: seq,
  from: "bob",
  client_msg_id: `m${seq}`,
  kind: "message",
  type: "text",
  content: "x",
  ...more,
});

test("unread is the head's ordinal less that of the highest of read mark, joining and clearing", () => {
  const base = { head: mark(20, 15), read: mark(0), joined: mark(1, 0), settings: settings() };
  assert.equal(unread(base), 15);
  assert.equal(unread({ ...base, read: mark(10, 8) }), 7);
  assert.equal(unread({ ...base, read: mark(10, 8), joined: mark(15, 11) }), 4);
  assert.equal(unread({ ...base, read: mark(10, 8), settings: settings(mark(18, 14)) }), 1);
  assert.equal(unread({ ...base, left: mark(12, 9) }), 9);
  assert.equal(unread({ ...base, left: mark(5, 4), read: mark(10, 8) }), 0, "never below zero");
});

test("unread is what may be read, counts, and was not read: counted one by one", async () => {
  await eachSeed(500, (chance) => {
    const counts = Array.from({ length: chance.between(1, 40) }, () => chance.happens(0.7));
    const ordinal = (seq) => counts.slice(0, seq).filter(Boolean).length;
    const at = (seq) => mark(seq, ordinal(seq));
    const joined = chance.between(1, counts.length);
    const left = chance.happens(0.3) ? chance.between(joined, counts.length) : null;
    const [read, cleared] = [chance.between(0, counts.length), chance.between(0, counts.length)];
    const conversation = {
      head: at(counts.length),
      read: at(read),
      joined: mark(joined, ordinal(joined - 1)),
      ...(left === null ? {} : { left: at(left) }),
      settings: settings(at(cleared)),
    };
    const counted = counts.filter((counting, index) => {
      const seq = index + 1;
      return counting && seq >= joined && (left === null || seq <= left) && seq > read && seq > cleared;
    });
    assert.equal(unread(conversation), counted.length);
  });
});

test("others' messages count as they are taken, own ones are a read mark, notices do not count", () => {
  let conversation = booted(view(), undefined);
  conversation = taken(conversation, record(1), false);
  conversation = taken(conversation, record(2), false);
  assert.equal(conversation.unread, 2);
  conversation = taken(conversation, record(3, { kind: "members", ordinal: 2 }), false);
  assert.equal(conversation.unread, 2);
  conversation = taken(conversation, record(4, { from: "me", ordinal: 3 }), true);
  assert.equal(conversation.unread, 0);
  assert.deepEqual(conversation.read, mark(4, 3));
});

test("what was read here counts at once and the server's word later", () => {
  let conversation = booted(view({ head: mark(10), unread: 10 }), undefined);
  assert.equal(conversation.unread, 10);
  conversation = reading(conversation, mark(8));
  assert.deepEqual([conversation.unread, conversation.reading], [2, mark(8)]);
  conversation = confirmed(conversation, mark(8));
  assert.deepEqual([conversation.unread, conversation.reading, conversation.read], [2, null, mark(8)]);
  conversation = reading(conversation, mark(5));
  assert.deepEqual([conversation.unread, conversation.reading], [2, null], "a mark never goes back");
});

test("a view that is older than what came since takes nothing back", () => {
  let conversation = booted(view({ head: mark(3), read: mark(1) }), undefined);
  conversation = taken(conversation, record(4), false);
  conversation = reading(conversation, mark(4));
  const late = merged(conversation, view({ head: mark(3), read: mark(2), settings: { ...settings(), undisturbed: true } }));
  assert.equal(late.unread, 0);
  assert.deepEqual([late.head, late.mark, late.last.seq], [mark(4), mark(4), 4]);
  assert.equal(late.settings.undisturbed, true);
});

test("after a hole a mark inside it counts like the last record below", () => {
  // The server lost 4 and 5, which were read here: what comes after the hole takes their ordinals.
  let conversation = booted(view({ head: mark(5), read: mark(5), last: record(5) }), undefined);
  conversation = taken(conversation, record(100, { ordinal: 4, hole_after: 3 }), false);
  assert.deepEqual([conversation.read, conversation.unread], [mark(5, 3), 1]);
  conversation = taken(conversation, record(101, { ordinal: 5 }), false);
  assert.equal(conversation.unread, 2);
});

test("a conversation that was only met has no mark yet", () => {
  assert.equal(met(view({ head: mark(7), joined: mark(5, 4) })).mark, null);
  assert.equal(met(view({ head: mark(7), joined: mark(5, 4) })).unread, 3);
});

import assert from "node:assert/strict";
import test from "node:test";
import { memoryStorage } from "../src/storage.js";
import { fakeClock } from "./clock.mjs";
import { FakeServer } from "./fake-server.mjs";
import { client } from "./support.mjs";

async function world(options) {
  const clock = fakeClock();
  const server = new FakeServer(clock, options);
  const enter = async (user, more) => {
    const one = client(server, clock, user, more);
    await one.chat.start();
    await clock.advance(0);
    return one;
  };
  return { clock, server, enter };
}

const asked = (server, user, op) => server.asked.filter(([who, what]) => who === user && what === op);

test("two users chat both ways", async () => {
  const { clock, enter } = await world();
  const [alice, bob] = [await enter("alice"), await enter("bob")];
  const { id } = await alice.chat.openSingle("bob");
  const ack = await alice.chat.send(id, "你好");
  await clock.advance(0);
  assert.equal(ack.seq, 1);
  assert.deepEqual(bob.said(id), ["你好"]);
  assert.equal(bob.chat.conversation(id).peer, "alice");
  assert.equal(bob.chat.unread.total, 1);
  await bob.chat.send(id, "hello");
  await clock.advance(0);
  assert.deepEqual(alice.said(id), ["你好", "hello"]);
  assert.deepEqual([alice.chat.unread.total, bob.chat.unread.total], [1, 0], "who answers has read");
  assert.deepEqual(alice.chat.outgoing(id), []);
});

test("a client without a cursor bootstraps: what is there counts as taken", async () => {
  const { clock, server, enter } = await world({ page: 3 });
  for (let group = 0; group < 8; group += 1) {
    server.group(`g${group}`, ["bob", "alice"]);
    for (let count = 0; count < group; count += 1) server.append(`g${group}`, { from: "bob", content: `${count}` });
  }
  const alice = await enter("alice");
  assert.equal(alice.chat.synced, true);
  assert.deepEqual(alice.heard.messages, []);
  assert.deepEqual(alice.chat.conversations().map(({ unread }) => unread).sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
  assert.equal(alice.chat.unread.total, 28);
  server.append("g7", { from: "bob", content: "new" });
  await clock.advance(0);
  assert.deepEqual(alice.said("g7"), ["new"]);
});

test("an entry of a conversation that is not known makes the client fetch it first", async () => {
  const { clock, server, enter } = await world();
  const alice = await enter("alice");
  const order = [];
  alice.chat.on("conversation", ({ conversation, before }) => before || order.push(`met ${conversation.id}`));
  alice.chat.on("message", ({ record }) => order.push(`${record.kind} ${record.conversation}`));
  // The state signal is lost: the entry alone must do.
  server.signals = () => false;
  server.group("g", ["bob", "alice"], { name: "Team" });
  server.signals = () => true;
  server.append("g", { from: "bob", content: "welcome" });
  await clock.advance(0);
  assert.deepEqual(order, ["met g", "members g", "message g"]);
  assert.equal(alice.chat.conversation("g").name, "Team");
});

test("a client that comes back gets what it missed, once and in order", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  const alice = await enter("alice");
  server.append("g", { from: "bob", content: "1" });
  await clock.advance(0);
  server.kill();
  for (let count = 2; count <= 450; count += 1) server.append("g", { from: "bob", content: `${count}` });
  server.up = true;
  await clock.advance(60_000);
  assert.deepEqual(alice.said("g"), Array.from({ length: 450 }, (_, index) => `${index + 1}`));
  assert.deepEqual(alice.heard.resets, []);
});

test("lost signals are made up for within one heartbeat", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  server.group("big", ["bob", "alice"], { large: true });
  const alice = await enter("alice");
  server.signals = () => false;
  server.append("g", { from: "bob", content: "unheard" });
  server.append("big", { from: "bob", content: "unheard of" });
  server.group("new", ["bob", "alice"]);
  await clock.advance(29_000);
  assert.deepEqual(alice.heard.messages, []);
  await clock.advance(1_000);
  assert.deepEqual([alice.said("g"), alice.said("big")], [["unheard"], ["unheard of"]]);
  assert.ok(alice.chat.conversation("new"));
});

test("a large group is read by its heads, with history in pages", async () => {
  const { clock, server, enter } = await world({ page: 10 });
  server.group("big", ["bob", "alice"], { large: true });
  server.append("big", { from: "bob", content: "before" });
  const alice = await enter("alice");
  const expected = Array.from({ length: 35 }, (_, index) => `${index}`);
  server.signals = () => false;
  for (const content of expected) server.append("big", { from: "bob", content });
  await clock.advance(30_000);
  assert.deepEqual(alice.said("big"), expected);
  assert.equal(alice.chat.conversation("big").unread, 36);
});

test("who joins a large group sees it from the joining record on", async () => {
  const { clock, server, enter } = await world();
  server.group("big", ["bob"], { large: true });
  for (let count = 0; count < 5; count += 1) server.append("big", { from: "bob", content: "not for alice" });
  const alice = await enter("alice");
  const joined = await alice.chat.join("big");
  assert.equal(joined.id, "big");
  server.append("big", { from: "bob", content: "hi alice" });
  await clock.advance(0);
  assert.deepEqual(alice.heard.messages.map(({ kind, seq }) => [kind, seq]), [["members", 7], ["message", 8]]);
});

test("reading on one device clears the count on the user's other one", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  const [one, two] = [await enter("alice"), await enter("alice", { device: "alice-2" })];
  for (let count = 0; count < 3; count += 1) server.append("g", { from: "bob", content: "x" });
  await clock.advance(0);
  assert.deepEqual([one.chat.unread.total, two.chat.unread.total], [3, 3]);
  one.chat.markRead("g");
  assert.equal(one.chat.unread.total, 0, "at once");
  await clock.advance(0);
  assert.equal(two.chat.unread.total, 0);
  assert.equal(asked(server, "alice", "mark_read").length, 1);
});

test("what was read offline is told when there is a connection again", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  server.append("g", { from: "bob", content: "x" });
  const alice = await enter("alice");
  server.kill();
  await clock.advance(0);
  alice.chat.markRead("g");
  assert.equal(alice.chat.unread.total, 0);
  server.up = true;
  await clock.advance(60_000);
  assert.equal(server.user("alice").reads.get("g").seq, 2);
  assert.equal(alice.chat.unread.total, 0);
});

test("where devices have marks of their own, only this device's sends are read marks", async () => {
  const { clock, server, enter } = await world({ readMarks: "per_device" });
  server.group("g", ["bob", "alice"]);
  const [one, two] = [await enter("alice"), await enter("alice", { device: "alice-2" })];
  await one.chat.send("g", "from the first device");
  await clock.advance(0);
  assert.deepEqual([one.chat.unread.total, two.chat.unread.total], [0, 1]);
});

test("undisturbed conversations are counted apart", async () => {
  const { clock, server, enter } = await world();
  for (const id of ["g", "quiet"]) {
    server.group(id, ["bob", "alice"]);
    server.append(id, { from: "bob", content: "x" });
  }
  const alice = await enter("alice");
  await alice.chat.set("quiet", { undisturbed: true });
  await clock.advance(0);
  assert.deepEqual(alice.chat.unread, { total: 1, undisturbed: 1 });
});

test("what was taken is acked in time, also when nothing was new", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  await enter("alice");
  const [session] = server.sessionsOf("alice");
  server.append("g", { from: "bob", content: "x" });
  await clock.advance(1_000);
  const { length } = server.user("alice").inbox;
  assert.deepEqual([...new Set(session.acks)].pop(), `alice/${length}`);
  session.acks.length = 0;
  session.event({ ev: "signal", end: `alice/${length}` });
  await clock.advance(1_000);
  assert.deepEqual(session.acks, [`alice/${length}`]);
});

test("a burst of signals is acked by a few frames", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  const alice = await enter("alice");
  const [session] = server.sessionsOf("alice");
  await clock.advance(1_000);
  session.acks.length = 0;
  for (let count = 0; count < 100; count += 1) server.append("g", { from: "bob", content: "x" });
  await clock.advance(1_000);
  assert.equal(alice.said("g").length, 100);
  assert.ok(session.acks.length <= 2, `${session.acks.length} acks`);
});

test("an entry that was lost on the way into the inbox is paged before anything later is shown", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  const alice = await enter("alice");
  const [deliver, lost] = [server.deliver, new Set(["2", "3"])];
  server.deliver = (user, record) => lost.has(record.content) || deliver.call(server, user, record);
  for (const content of ["1", "2", "3", "4"]) server.append("g", { from: "bob", content });
  await clock.advance(0);
  assert.deepEqual(alice.said("g"), ["1", "2", "3", "4"]);
});

test("a replayed entry is dropped and its cursor taken", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  const alice = await enter("alice");
  const record = server.append("g", { from: "bob", content: "once" });
  server.deliver("alice", record);
  await clock.advance(1_000);
  assert.deepEqual(alice.said("g"), ["once"]);
  assert.deepEqual(server.sessionsOf("alice")[0].acks.pop(), "alice/3");
});

test("a store that is behind is asked again", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  const alice = await enter("alice");
  let behind = 3;
  server.intercept = (op) => {
    if (op === "history" && behind-- > 0) return { error: { code: "behind", message: "", retry_after_ms: 50 } };
    return undefined;
  };
  const [deliver] = [server.deliver];
  server.deliver = (user, record) => record.content === "1" || deliver.call(server, user, record);
  for (const content of ["1", "2"]) server.append("g", { from: "bob", content });
  await clock.advance(0);
  assert.deepEqual(alice.said("g"), []);
  await clock.advance(4_000);
  assert.deepEqual(alice.said("g"), ["1", "2"]);
  const { cursor } = server.user("alice").inbox.slice(-1)[0];
  assert.equal(server.sessionsOf("alice")[0].acks.pop(), cursor, "acked once it was taken, within 5 s");
});

test("a cursor that cannot be served makes the client begin afresh, and says so to who shows messages", async () => {
  const { clock, server, enter } = await world();
  for (const id of ["busy", "quiet"]) server.group(id, ["bob", "alice"]);
  const alice = await enter("alice");
  server.kill();
  for (let count = 0; count < 5; count += 1) server.append("busy", { from: "bob", content: "x" });
  const user = server.user("alice");
  user.trimmed = user.inbox.length;
  server.up = true;
  await clock.advance(60_000);
  assert.deepEqual(alice.heard.resets, ["busy"]);
  assert.equal(alice.chat.conversation("busy").mark.seq, 6);
  server.append("busy", { from: "bob", content: "next" });
  await clock.advance(0);
  assert.deepEqual(alice.said("busy"), ["next"]);
});

test("a conversation that is gone after a bootstrap is removed", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  server.append("g", { from: "bob", content: "x" });
  const alice = await enter("alice");
  assert.equal(alice.chat.unread.total, 1);
  server.kill();
  server.conversations.delete("g");
  server.user("alice").trimmed = server.user("alice").inbox.length + 1;
  server.deliver("alice", { conversation: "gone", seq: 1 });
  server.up = true;
  await clock.advance(60_000);
  assert.deepEqual([alice.heard.removed, alice.chat.conversations(), alice.chat.unread.total], [["g"], [], 0]);
});

test("conversations that the store has not reached are asked for again before the bootstrap is complete", async () => {
  const { clock, server, enter } = await world();
  for (const id of ["a", "b"]) server.group(id, ["bob", "alice"]);
  let behind = 2;
  server.intercept = (op, body, session) => {
    if (op !== "conversations" || behind-- <= 0) return undefined;
    const { ok } = session.serve(op, body);
    return { ok: { ...ok, conversations: ok.conversations.filter(({ id }) => id !== "a"), behind: ["a"] } };
  };
  const alice = await enter("alice");
  assert.equal(alice.chat.synced, false);
  await clock.advance(5_000);
  assert.equal(alice.chat.synced, true);
  assert.deepEqual(alice.chat.conversations().map(({ id }) => id).sort(), ["a", "b"]);
});

test("of a server with short pages no more is asked for at once, be ever so much behind", async () => {
  const { clock, server, enter } = await world({ page: 5 });
  const ids = Array.from({ length: 12 }, (_, index) => `g${index}`);
  for (const id of ids) server.group(id, ["bob", "alice"]);
  server.intercept = (op, body, session) => {
    if (op !== "conversations" || body.ids) return undefined;
    const { ok } = session.serve(op, body);
    return { ok: { ...ok, conversations: [], behind: ok.conversations.map(({ id }) => id) } };
  };
  const alice = await enter("alice");
  await clock.advance(4_000);
  assert.deepEqual([alice.heard.failed, alice.chat.synced], [[], true]);
  assert.deepEqual(alice.chat.conversations().map(({ id }) => id).sort(), ids.sort());
});

test("a bootstrap that waits for the store does not go on over another connection", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  const stale = server.view(server.user("alice"), "g");
  server.append("g", { from: "bob", content: "acked before the bootstrap" });
  let [behind, began] = [true, null];
  server.intercept = (op, body, session) => {
    if (op !== "conversations" || !behind) return undefined;
    if (body.fresh) began = session;
    // Only the session that began the bootstrap compares the store with the log; another one serves what there is.
    if (session !== began) return { ok: { conversations: [stale] } };
    return { ok: { ...session.serve(op, body).ok, conversations: [], behind: ["g"] } };
  };
  const alice = await enter("alice");
  await clock.advance(1_600);
  server.sessions[0].ended(1006);
  await clock.advance(1_000);
  const next = server.sessions[0];
  assert.equal(alice.chat.status.state, "online");
  await clock.advance(5_000);
  assert.equal(began, next, "it began anew");
  behind = false;
  await clock.advance(10_000);
  assert.deepEqual([alice.chat.synced, alice.chat.conversation("g").mark.seq], [true, 2]);
});

test("a client that was closed goes on from what it kept", async () => {
  const { clock, server, enter } = await world();
  const storage = memoryStorage();
  server.group("g", ["bob", "alice"]);
  const first = await enter("alice", { storage });
  server.append("g", { from: "bob", content: "1" });
  await clock.advance(0);
  await first.chat.stop();
  server.append("g", { from: "bob", content: "2" });
  server.asked.length = 0;
  const second = await enter("alice", { storage });
  assert.equal(second.chat.conversation("g").unread, 2);
  assert.deepEqual(second.said("g"), ["2"]);
  assert.deepEqual(asked(server, "alice", "conversations"), [], "no bootstrap");
});

/** A storage that takes its time, and what is in it. */
function slowStorage(clock) {
  const kept = new Map();
  const late = (run) => new Promise((done) => clock.setTimeout(() => done(run()), 20));
  const storage = {
    getItem: (key) => late(() => kept.get(key) ?? null),
    setItem: (key, value) => late(() => void kept.set(key, value)),
    removeItem: (key) => late(() => void kept.delete(key)),
  };
  return { kept, storage };
}

test("a client that is stopped while it starts stays away until it is started again", async () => {
  const { clock, server } = await world();
  const { chat } = client(server, clock, "alice", { storage: slowStorage(clock).storage });
  const started = chat.start();
  const stopped = chat.stop();
  await clock.advance(60_000);
  await Promise.all([started, stopped]);
  assert.equal(chat.status.state, "closed");
  chat.start();
  chat.stop();
  chat.start();
  await clock.advance(1_000);
  assert.equal(chat.status.state, "online");
});

test("signing out while the client starts, or before, leaves nothing behind", async () => {
  for (const starts of [true, false]) {
    const { clock, server, enter } = await world();
    const { kept, storage } = slowStorage(clock);
    server.group("g", ["bob", "alice"]);
    const first = enter("alice", { storage });
    await clock.advance(1_000);
    server.kill();
    await clock.advance(0);
    const { chat } = await first;
    chat.send("g", "never sent");
    chat.stop();
    await clock.advance(1_000);
    assert.ok(kept.size >= 4, [...kept.keys()].join(" "));
    server.up = true;
    const second = client(server, clock, "alice", { storage });
    if (starts) second.chat.start();
    second.chat.forget();
    await clock.advance(60_000);
    assert.deepEqual([second.chat.status.state, second.chat.conversations(), [...kept.keys()]], ["closed", [], []]);
  }
});

test("signing out leaves nothing behind", async () => {
  const { clock, server, enter } = await world();
  const kept = new Map();
  const storage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, value),
    removeItem: (key) => void kept.delete(key),
  };
  server.group("g", ["bob", "alice"]);
  const alice = await enter("alice", { storage });
  await clock.advance(1_000);
  server.kill();
  await clock.advance(0);
  alice.chat.send("g", "never sent");
  await clock.advance(1_000);
  assert.ok(kept.size >= 4, [...kept.keys()].join(" "));
  await alice.chat.forget();
  assert.deepEqual([...kept.keys()], []);
});

test("who is removed from a group learns it, and who comes back sees no record twice and none from between", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  const alice = await enter("alice");
  server.append("g", { from: "bob", content: "1" });
  const change = (content) => server.append("g", { from: "bob", kind: "members", type: "system", content: JSON.stringify(content) });
  change({ leave: ["alice"] });
  await clock.advance(0);
  assert.ok(alice.chat.conversation("g").left);
  server.append("g", { from: "bob", content: "not for alice" });
  await assert.rejects(alice.chat.history("nowhere"), { code: "not_member" });
  change({ join: [["alice", "member"]] });
  server.append("g", { from: "bob", content: "2" });
  await clock.advance(0);
  assert.equal(alice.chat.conversation("g").left, undefined);
  assert.deepEqual(alice.heard.messages.map(({ seq }) => seq), [2, 3, 5, 6]);
});

test("a lost tail of the server: what stood in the hole is discarded", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  const alice = await enter("alice");
  for (const content of ["1", "2", "3"]) server.append("g", { from: "bob", content });
  await clock.advance(0);
  const conversation = server.conversations.get("g");
  conversation.records = conversation.records.slice(0, 2);
  server.append("g", { from: "bob", content: "after", hole: 2 ** 20 });
  await clock.advance(0);
  assert.deepEqual(alice.heard.discards, [{ conversation: "g", above: 2, below: 2 + 2 ** 20 }]);
  assert.deepEqual(alice.said("g"), ["1", "2", "3", "after"]);
});

test("a server that serves no cursor is not asked for everything without end", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  server.intercept = (op) => (op === "pull" ? { ok: { entries: [], more: false, resync: true } } : undefined);
  await enter("alice");
  await clock.advance(300_000);
  const bootstraps = asked(server, "alice", "conversations").length;
  assert.ok(bootstraps > 5 && bootstraps < 40, `${bootstraps} bootstraps in 5 min`);
});

test("after a pull whose answer never came, signals with entries are not taken for what follows", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  server.group("h", ["bob", "alice"]);
  const alice = await enter("alice");
  let lost = 1;
  server.intercept = (op, body, session) => (op === "pull" && lost-- > 0 ? (session.serve(op, body), "ignore") : undefined);
  // The signal is lost, the heartbeat tells, the pull is served, its answer is too late.
  server.signals = () => false;
  server.append("g", { from: "bob", content: "1" });
  server.signals = () => true;
  await clock.advance(35_000);
  server.append("h", { from: "bob", content: "2" });
  await clock.advance(10_000);
  assert.deepEqual([alice.said("g"), alice.said("h")], [["1"], ["2"]]);
});

test("a page that is not the last is followed by the next one, also when its end was told meanwhile", async () => {
  const { clock, server, enter } = await world({ page: 5 });
  server.group("g", ["bob", "alice"]);
  const alice = await enter("alice");
  const expected = Array.from({ length: 12 }, (_, index) => `${index}`);
  server.signals = () => false;
  for (const content of expected) server.append("g", { from: "bob", content });
  const [session] = server.sessionsOf("alice");
  let again = true;
  server.intercept = (op, body) => {
    if (op !== "pull" || !again) return undefined;
    again = false;
    const answer = session.serve(op, body);
    // An older signal again, because nothing was acked: its end is the page's.
    session.event({ ev: "signal", end: answer.ok.entries[4].cursor });
    return answer;
  };
  session.event({ ev: "signal", end: server.end(server.user("alice")) });
  await clock.advance(1_000);
  assert.deepEqual(alice.said("g"), expected);
});

test("signals with entries that were too many to wait are pulled", async () => {
  const { clock, server, enter } = await world({ page: 50 });
  for (const id of ["g", "h"]) server.group(id, ["bob", "alice"]);
  const alice = await enter("alice");
  let busy = true;
  server.intercept = (op) => (op === "history" && busy ? { error: { code: "behind", message: "" } } : undefined);
  const { deliver } = server;
  server.deliver = (user, record) => record.content === "lost" || deliver.call(server, user, record);
  server.append("g", { from: "bob", content: "lost" });
  const expected = Array.from({ length: 200 }, (_, index) => `${index}`);
  server.append("g", { from: "bob", content: "gap" });
  for (const content of expected) server.append("h", { from: "bob", content });
  await clock.advance(1_000);
  assert.deepEqual(alice.said("h"), []);
  busy = false;
  await clock.advance(15_000);
  assert.deepEqual([alice.said("g"), alice.said("h")], [["lost", "gap"], expected]);
});

test("who was put out of a large group sees up to there, also when the page was closed in between", async () => {
  const { clock, server, enter } = await world();
  const storage = memoryStorage();
  server.group("big", ["bob", "alice"], { large: true });
  const first = await enter("alice", { storage });
  server.intercept = (op) => (op === "history" ? { error: { code: "behind", message: "" } } : undefined);
  server.append("big", { from: "bob", kind: "members", type: "system", content: JSON.stringify({ leave: ["alice"] }) });
  await clock.advance(1_000);
  await first.chat.stop();
  server.intercept = () => undefined;
  const second = await enter("alice", { storage });
  assert.deepEqual([...first.heard.messages, ...second.heard.messages].map(({ seq }) => seq), [2]);
});

test("a state that changed too much is taken over by listing all conversations", async () => {
  const { clock, server, enter } = await world({ page: 2 });
  for (const id of ["a", "b", "c"]) server.group(id, ["bob", "alice"]);
  const alice = await enter("alice");
  server.intercept = (op) => (op === "state" ? { ok: { version: "v99", changes: [], all: true } } : undefined);
  server.user("alice").settings.set("c", { undisturbed: true });
  server.raise("alice", "c");
  await clock.advance(0);
  assert.equal(alice.chat.conversation("c").settings.undisturbed, true);
});

test("a state that is known is not asked for again", async () => {
  const { clock, server, enter } = await world();
  server.group("g", ["bob", "alice"]);
  await enter("alice");
  server.raise("alice", "g");
  await clock.advance(200_000);
  assert.equal(asked(server, "alice", "state").length, 1);
});

test("a signal right behind the answer to hello is not lost", async () => {
  const { clock, server, enter } = await world();
  const storage = memoryStorage();
  for (const id of ["g", "h"]) server.group(id, ["bob", "alice"]);
  const first = await enter("alice", { storage });
  await first.chat.stop();
  server.intercept = (op, body, session) => {
    if (op !== "hello") return undefined;
    const frames = [{ re: 1, ...session.serve(op, body) }];
    session.event = (frame) => frames.push(frame);
    server.append("g", { from: "bob", content: "right behind" });
    delete session.event;
    // Both came with one read, as with `ws` of Node: no promise has its turn in between.
    session.queue("out", () => frames.forEach((frame) => session.socket.onmessage({ data: JSON.stringify(frame) })));
    return "ignore";
  };
  const second = await enter("alice", { storage });
  server.append("h", { from: "bob", content: "later" });
  await clock.advance(300_000);
  assert.deepEqual([second.said("g"), second.said("h")], [["right behind"], ["later"]]);
});

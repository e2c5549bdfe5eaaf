import assert from "node:assert/strict";
import test from "node:test";
import { memoryStorage } from "../src/storage.js";
import { eachSeed, fakeClock } from "./clock.mjs";
import { FakeServer } from "./fake-server.mjs";
import { client } from "./support.mjs";

async function world(more) {
  const clock = fakeClock();
  // Signals are lost in some tests; no heartbeat is to make up for them.
  const server = new FakeServer(clock, { heartbeat: 1_000_000 });
  server.group("g", ["bob", "alice"]);
  server.group("h", ["bob", "alice"]);
  const enter = async () => {
    const alice = client(server, clock, "alice", more);
    await alice.chat.start();
    await clock.advance(0);
    return alice;
  };
  const stored = (id = "g") => server.conversations.get(id).records.slice(1).map(({ content }) => content);
  const sends = () => server.asked.filter(([, op]) => op === "send").map(([, , body]) => body);
  return { clock, server, enter, stored, sends, ...(await enter()) };
}

const error = (code, more = {}) => ({ error: { code, message: code, ...more } });
/** Does something the first `times` times that a send comes. */
function atSends(server, times, run) {
  server.intercept = (op, body, session) => (op === "send" && times-- > 0 ? run(body, session) : undefined);
}

test("a message is pending, then sent, then in the timeline", async () => {
  const { clock, server, chat, said } = await world();
  const states = [];
  chat.on("outbox", () => states.push(chat.outgoing("g").map(({ state }) => state).join()));
  chat.on("message", ({ record }) => states.push(`took ${record.content}`));
  server.signals = () => false;
  const ack = await chat.send("g", "hi");
  assert.deepEqual([ack.seq, ack.duplicate], [2, false]);
  assert.deepEqual(chat.outgoing("g").map(({ state, seq }) => [state, seq]), [["sent", 2]]);
  await clock.advance(1_000_000);
  assert.deepEqual(said("g"), ["hi"]);
  assert.deepEqual(states, ["pending", "sent", "", "took hi"]);
});

test("the record may come before the ack", async () => {
  const { clock, server, chat, said } = await world();
  atSends(server, 1, (body, session) => {
    const answer = session.serve("send", body);
    server.clock.setTimeout(() => session.event({ re: 0, ...answer }), 100);
    return "ignore";
  });
  const acked = chat.send("g", "hi");
  await clock.advance(0);
  assert.deepEqual(said("g"), ["hi"]);
  assert.deepEqual(chat.outgoing("g"), []);
  assert.equal((await acked).seq, 2, "that it arrived is known by then");
});

test("no answer is unknown: the same id goes out again, and the message is stored once", async () => {
  const { clock, server, chat, stored, sends } = await world();
  server.signals = () => false;
  // Stored, but the answer is lost: three times.
  atSends(server, 3, (body, session) => (session.serve("send", body), "ignore"));
  const acked = chat.send("g", "once");
  await clock.advance(5_000);
  assert.equal(chat.outgoing("g")[0].state, "pending", "never failed");
  await clock.advance(90_000);
  assert.equal((await acked).duplicate, true);
  assert.deepEqual(stored(), ["once"]);
  assert.equal(sends().length, 4);
  assert.equal(new Set(sends().map(({ client_msg_id }) => client_msg_id)).size, 1);
});

test("errors that pass are waited out, as long as the server says", async () => {
  for (const code of ["too_fast", "overloaded", "unavailable", "timeout_unknown", "behind"]) {
    const { clock, server, chat, stored } = await world();
    atSends(server, 2, () => error(code, { retry_after_ms: 2_000 }));
    const acked = chat.send("g", "hi");
    await clock.advance(3_900);
    assert.deepEqual(stored(), [], code);
    await clock.advance(10_000);
    assert.equal((await acked).seq, 2);
  }
});

test("a refusal is told, and the next message goes on", async () => {
  const { clock, server, chat, stored } = await world();
  atSends(server, 1, () => error("denied"));
  const refused = assert.rejects(chat.send("g", "bad"), { code: "denied", unknown: false });
  chat.send("g", "good");
  await clock.advance(0);
  await refused;
  assert.deepEqual(stored(), ["good"]);
  const [item] = chat.outgoing("g");
  assert.deepEqual([item.content, item.state, item.error.code], ["bad", "refused", "denied"]);
});

test("a refused message can be sent again, as a new one, or given up", async () => {
  const { clock, server, chat, stored, sends } = await world();
  atSends(server, 2, () => error("denied"));
  chat.send("g", "again");
  chat.send("g", "never mind");
  await clock.advance(0);
  const [again, never] = chat.outgoing("g");
  chat.discard(never.id);
  chat.retry(again.id);
  await clock.advance(0);
  assert.deepEqual(stored(), ["again"]);
  assert.deepEqual(chat.outgoing("g"), []);
  const ids = sends().filter(({ content }) => content === "again").map(({ client_msg_id }) => client_msg_id);
  assert.equal(new Set(ids).size, 2);
});

test("a server that keeps failing inside is not asked for ever, and a retry keeps the id", async () => {
  const { clock, server, chat, sends, stored } = await world();
  atSends(server, 5, () => error("internal"));
  chat.send("g", "hi");
  await clock.advance(120_000);
  const [item] = chat.outgoing("g");
  assert.deepEqual([item.state, item.error.code, sends().length], ["refused", "internal", 5]);
  chat.retry(item.id);
  await clock.advance(0);
  assert.deepEqual(stored(), ["hi"]);
  assert.equal(new Set(sends().map(({ client_msg_id }) => client_msg_id)).size, 1, "it may have been stored");
});

test("messages of a conversation keep their order over every failure", async () => {
  await eachSeed(20, async (chance) => {
    const { clock, server, chat, stored } = await world();
    server.intercept = (op, body, session) => {
      if (op !== "send" || chance.happens(0.5)) return undefined;
      const faults = [() => error("overloaded"), () => "ignore", () => (session.serve(op, body), "ignore"), () => session.ended(1006)];
      return chance.pick(faults)();
    };
    for (let count = 0; count < 20; count += 1) chat.send("g", `${count}`);
    await clock.advance(200_000);
    server.intercept = () => undefined;
    await clock.advance(200_000);
    assert.deepEqual(stored(), Array.from({ length: 20 }, (_, index) => `${index}`));
  });
});

test("a conversation does not wait for another one's failures", async () => {
  const { clock, server, chat, stored } = await world();
  server.intercept = (op, { conversation }) => (op === "send" && conversation === "g" ? error("overloaded") : undefined);
  chat.send("g", "stuck");
  chat.send("h", "elsewhere");
  await clock.advance(0);
  assert.deepEqual([stored(), stored("h")], [[], ["elsewhere"]]);
});

test("a client whose clock is ahead takes the server's, and the message another id", async () => {
  const { clock, server, chat, stored, sends } = await world();
  const time = (id) => Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16);
  const behind = clock.now() - 3_600_000;
  server.intercept = (op, { client_msg_id }) =>
    op === "send" && time(client_msg_id) > behind + 1_000 ? error("client_clock", { server_time: behind }) : undefined;
  chat.send("g", "hi");
  chat.send("g", "again");
  await clock.advance(0);
  assert.deepEqual(stored(), ["hi", "again"]);
  // The second had its id before the clock was known to be wrong.
  assert.deepEqual(sends().map(({ content }) => content), ["hi", "hi", "again", "again"]);
  chat.send("g", "by then");
  await clock.advance(0);
  assert.equal(sends().length, 5);
});

test("what was written offline goes out when there is a connection, also after the page was closed", async () => {
  const { clock, server, chat, enter, stored } = await world({ storage: memoryStorage() });
  server.kill();
  await clock.advance(0);
  const acked = assert.rejects(chat.send("g", "1"), { code: "closed", unknown: true });
  chat.send("g", "2");
  await chat.stop();
  await acked;
  server.up = true;
  const later = await enter();
  assert.deepEqual(stored(), ["1", "2"]);
  assert.deepEqual(later.said("g"), ["1", "2"]);
  assert.deepEqual(later.chat.outgoing("g"), []);
});

test("what is written before the client has started comes after what was kept, and takes nothing of it away", async () => {
  const starts = {
    "before start": (chat) => (chat.send("g", "new"), chat.start()),
    "while it starts": (chat) => {
      const started = chat.start();
      chat.send("g", "new");
      return started;
    },
  };
  for (const [when, start] of Object.entries(starts)) {
    const storage = memoryStorage();
    const { clock, server, chat, stored } = await world({ storage });
    server.kill();
    await clock.advance(0);
    chat.send("g", "kept");
    await chat.stop();
    const later = client(server, clock, "alice", { storage });
    await start(later.chat);
    assert.deepEqual(later.chat.outgoing("g").map(({ content }) => content), ["kept", "new"], when);
    server.up = true;
    await clock.advance(60_000);
    assert.deepEqual(stored(), ["kept", "new"], when);
    assert.deepEqual(later.chat.outgoing("g"), [], when);
  }
});

test("a message that was stored before the page was closed is not stored again", async () => {
  const { clock, server, chat, enter, stored } = await world({ storage: memoryStorage() });
  server.signals = () => false;
  atSends(server, 1, (body, session) => (session.serve("send", body), "ignore"));
  chat.send("g", "once").catch(() => {});
  await clock.advance(0);
  await chat.stop();
  const later = await enter();
  await clock.advance(60_000);
  assert.deepEqual([stored(), later.said("g"), later.chat.outgoing("g")], [["once"], ["once"], []]);
});

test("the outbox is bounded", async () => {
  const { clock, server, chat } = await world();
  server.kill();
  await clock.advance(0);
  for (let count = 0; count < 500; count += 1) chat.send("g", "x");
  assert.throws(() => chat.send("g", "one more"), { code: "overloaded" });
  const { chat: other } = await world();
  assert.throws(() => other.send("g", "x".repeat(2 ** 20 + 1)), { code: "too_large" });
});

test("a message that landed where its sender sees nothing does not stay on its way for ever", async () => {
  const { clock, server, chat } = await world();
  atSends(server, 1, ({ conversation }) => {
    const content = JSON.stringify({ leave: ["alice"] });
    server.append(conversation, { from: "bob", kind: "members", type: "system", content });
    return { ok: { conversation, seq: 3, created_at: 0, duplicate: false, level: "logged" } };
  });
  chat.send("g", "too late to be seen");
  await clock.advance(0);
  assert.ok(chat.conversation("g").left);
  assert.deepEqual(chat.outgoing("g"), []);
});

test("a message whose record a bootstrap passed over does not stay on its way, be it the first of its conversation", async () => {
  const { clock, server, chat } = await world();
  const { id } = await chat.openSingle("bob");
  server.signals = () => false;
  for (const conversation of [id, "g"]) await chat.send(conversation, "hi");
  assert.deepEqual([...chat.outgoing(id), ...chat.outgoing("g")].map(({ state }) => state), ["sent", "sent"]);
  server.kill();
  server.user("alice").trimmed = server.user("alice").inbox.length;
  server.up = true;
  await clock.advance(60_000);
  assert.deepEqual([...chat.outgoing(id), ...chat.outgoing("g")], []);
});

test("a message whose record was taken by an earlier run is done with its ack", async () => {
  const storage = memoryStorage();
  const { clock, server, chat, enter, stored } = await world({ storage });
  const kept = [];
  const setItem = storage.setItem;
  // The outbox is not written any more once the message is in it, as if the page had been killed.
  storage.setItem = (key, value) => (key.endsWith(":outbox") && kept.push(value) > 1 ? undefined : setItem(key, value));
  storage.removeItem = () => undefined;
  chat.send("g", "hi");
  await clock.advance(0);
  await chat.stop();
  assert.equal(kept.length > 0, true);
  const later = await enter();
  await clock.advance(1_000);
  assert.deepEqual([stored(), later.said("g"), later.chat.outgoing("g")], [["hi"], [], []]);
});

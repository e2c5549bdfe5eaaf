import assert from "node:assert/strict";
import test from "node:test";
import { ChatClient } from "../src/client.js";
import { Connection } from "../src/connection.js";
import { closeMeaning, op } from "../src/wire.js";
import { fakeClock } from "./clock.mjs";
import { FakeServer } from "./fake-server.mjs";
import { client } from "./support.mjs";

async function connected(options, more) {
  const clock = fakeClock({ random: () => 1 });
  const server = new FakeServer(clock, options);
  const alice = client(server, clock, "alice", more);
  await alice.chat.start();
  await clock.advance(0);
  return { clock, server, ...alice };
}

const states = (heard) => heard.statuses.map(({ state, reason }) => (reason ? `${state} ${reason}` : state));
const count = (server, what) => server.asked.filter(([, name]) => name === what).length;

test("close codes from 4500 to 4999 are final, all others are not", () => {
  const final = (code) => closeMeaning(code).final;
  for (const code of [1000, 1001, 1005, 1006, 1011, 3000, 4000, 4006, 4499, 5000]) assert.equal(final(code), false, code);
  for (const code of [4500, 4501, 4505, 4999]) assert.equal(final(code), true, code);
  assert.deepEqual([closeMeaning(4000).name, closeMeaning(4500).name], ["draining", "kicked"]);
});

test("a lost connection is made again, after waits that double up to half a minute", async () => {
  const { clock, server, heard } = await connected();
  server.kill();
  await clock.advance(200_000);
  const waits = heard.statuses.filter(({ state }) => state === "waiting");
  const delays = waits.map(({ retryAt }, index) => retryAt - (waits[index - 1]?.retryAt ?? retryAt - 1000));
  assert.deepEqual(delays.slice(0, 7), [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
  server.up = true;
  await clock.advance(30_000);
  assert.equal(heard.statuses[heard.statuses.length - 1].state, "online");
});

test("a connection that lived a while makes the next wait short again; one that broke at once does not", async () => {
  const { clock, server, heard } = await connected();
  const wait = async () => {
    server.sessions.forEach((session) => session.ended(1006));
    await clock.advance(0);
    const { retryAt } = heard.statuses[heard.statuses.length - 1];
    const delay = retryAt - clock.now();
    await clock.advance(delay);
    return delay;
  };
  assert.deepEqual([await wait(), await wait(), await wait()], [1000, 2000, 4000]);
  await clock.advance(10_000);
  assert.equal(await wait(), 1000);
});

test("whoever is kicked does not come back by itself, but may when asked", async () => {
  const { clock, server, chat, heard } = await connected();
  const other = client(server, clock, "alice");
  await other.chat.start();
  await clock.advance(120_000);
  assert.deepEqual(states(heard), ["connecting", "online", "closed kicked"]);
  await chat.start();
  await clock.advance(0);
  assert.equal(chat.status.state, "online");
  assert.equal(other.chat.status.state, "closed");
});

test("a kick whose close never comes is one all the same", async () => {
  const { clock, server, chat } = await connected();
  server.sessions[0].event({ ev: "kicked", reason: "host said so" });
  await clock.advance(60_000);
  assert.deepEqual(chat.status, { state: "closed", reason: "host said so" });
});

test("a final close code without an event ends it", async () => {
  const { clock, server, chat } = await connected();
  server.sessions[0].close(4504);
  await clock.advance(60_000);
  assert.deepEqual(chat.status, { state: "closed", reason: "sessions_full" });
});

test("requests keep below the rate that the server takes", async () => {
  const { clock, server, chat } = await connected({ limits: { frames_per_second: 50, frames_burst: 200 } });
  server.group("g", ["bob", "alice"]);
  await clock.advance(10_000);
  const times = [];
  server.intercept = (asked) => void (asked === "history" && times.push(clock.now()));
  const all = Promise.all(Array.from({ length: 400 }, () => chat.history("g", {})));
  await clock.advance(20_000);
  await all;
  for (const [index, time] of times.entries()) {
    const within = times.slice(index).filter((other) => other - time <= 1_000).length;
    assert.ok(within <= 200 + 50, `${within} frames within a second`);
  }
  assert.ok(times[times.length - 1] - times[0] < 7_000, "and not far below");
});

test("a token that is not valid ends it", async () => {
  const { clock, chat } = await connected({}, { token: "forged" });
  await clock.advance(60_000);
  assert.deepEqual(chat.status, { state: "closed", reason: "unauthorized" });
});

test("a token of another user ends it, and nothing goes out in that user's name", async () => {
  let who = "alice";
  const { clock, server, chat } = await connected({}, { token: () => `token-${who}` });
  server.group("g", ["bob", "alice"]);
  server.kill();
  await clock.advance(0);
  chat.send("g", "alice's words");
  const history = assert.rejects(chat.history("g", {}), { code: "closed" });
  who = "bob";
  server.up = true;
  await clock.advance(10_000);
  await history;
  assert.deepEqual(chat.status, { state: "closed", reason: "unauthorized" });
  assert.deepEqual(server.asked.filter(([user]) => user === "bob"), []);
  assert.equal(clock.timers, 0);
  who = "alice";
  await chat.start();
  await clock.advance(0);
  assert.deepEqual(server.conversations.get("g").records.map(({ from, content }) => [from, content]).slice(1), [["alice", "alice's words"]]);
});

test("a token that ran out is asked for again on the same connection", async () => {
  const clock = fakeClock();
  const server = new FakeServer(clock);
  let opened = 0;
  const openSocket = (...where) => ((opened += 1), server.openSocket(...where));
  server.intercept = (asked, { token }) =>
    asked === "hello" && token === "token-old" ? { error: { code: "token_expired", message: "" } } : undefined;
  const tokens = ["token-old", "token-alice"];
  const { chat } = client(server, clock, "alice", { token: async () => tokens.shift(), openSocket });
  await chat.start();
  await clock.advance(0);
  assert.deepEqual([chat.status.state, opened], ["online", 1]);
});

test("a token that comes when its connection is gone says no hello on the next one", async () => {
  const clock = fakeClock();
  const server = new FakeServer(clock);
  let give;
  const token = (again) => (again ? new Promise((resolve) => (give = resolve)) : "token-alice");
  server.intercept = (asked) => (asked === "hello" && !give ? { error: { code: "token_expired", message: "" } } : undefined);
  const { chat } = client(server, clock, "alice", { token });
  await chat.start();
  await clock.advance(0);
  server.kill();
  server.up = true;
  await clock.advance(5_000);
  assert.equal(chat.status.state, "online");
  give("token-alice");
  await clock.advance(0);
  assert.equal(count(server, "hello"), 2);
  assert.equal(chat.status.state, "online");
});

test("a fixed token that ran out ends it", async () => {
  const clock = fakeClock();
  const server = new FakeServer(clock);
  server.intercept = (asked) => (asked === "hello" ? { error: { code: "token_expired", message: "" } } : undefined);
  const { chat } = client(server, clock, "alice");
  await chat.start();
  await clock.advance(60_000);
  assert.deepEqual(chat.status, { state: "closed", reason: "token_expired" });
});

test("a token that cannot be had now is asked for again", async () => {
  let tries = 0;
  const token = async () => {
    tries += 1;
    if (tries < 3) throw new Error("no network");
    return "token-alice";
  };
  const { clock, chat } = await connected({}, { token });
  await clock.advance(60_000);
  assert.equal(chat.status.state, "online");
});

test("a server that says nothing to hello is left, and tried again", async () => {
  const clock = fakeClock();
  const server = new FakeServer(clock);
  let silent = true;
  server.intercept = (asked) => (asked === "hello" && silent ? "ignore" : undefined);
  const { chat, heard } = client(server, clock, "alice");
  await chat.start();
  await clock.advance(15_000);
  assert.deepEqual(states(heard).slice(0, 2), ["connecting", "waiting offline"]);
  silent = false;
  await clock.advance(30_000);
  assert.equal(chat.status.state, "online");
});

test("a heartbeat goes out as often as the server asks, and a dead connection is noticed by it", async () => {
  const { clock, server, chat, heard } = await connected({ heartbeat: 20_000 });
  await clock.advance(60_000);
  assert.equal(count(server, "ping"), 3);
  server.intercept = (asked) => (asked === "ping" ? "ignore" : undefined);
  await clock.advance(29_000);
  assert.equal(chat.status.state, "online");
  await clock.advance(2_500);
  assert.deepEqual(states(heard).slice(-3), ["waiting offline", "connecting", "online"]);
});

test("an error to a heartbeat is an answer", async () => {
  const { clock, server, chat, heard } = await connected();
  server.intercept = (asked) => (asked === "ping" ? { error: { code: "unavailable", message: "" } } : undefined);
  await clock.advance(300_000);
  assert.deepEqual(states(heard), ["connecting", "online"]);
  assert.equal(chat.status.state, "online");
});

test("waking up does not wait for the backoff, and finds a dead connection at once", async () => {
  const { clock, server, chat, heard } = await connected();
  server.kill();
  await clock.advance(100_000);
  server.up = true;
  chat.wake();
  await clock.advance(0);
  assert.equal(chat.status.state, "online");
  server.intercept = (asked) => (asked === "ping" ? "ignore" : undefined);
  chat.wake();
  await clock.advance(4_000);
  assert.equal(states(heard).pop(), "waiting offline");
});

test("a call waits for the connection and is tried again over the next one", async () => {
  const { clock, server, chat } = await connected();
  server.group("g", ["bob", "alice"]);
  server.kill();
  await clock.advance(0);
  const history = chat.history("g", {});
  await clock.advance(3_000);
  server.up = true;
  await clock.advance(5_000);
  assert.equal((await history).records.length, 1);
});

test("a call gives up after a while, and at once when the client is closed", async () => {
  const { clock, server, chat } = await connected();
  server.kill();
  await clock.advance(0);
  const late = assert.rejects(chat.history("g", {}), { code: "disconnected", unknown: true });
  await clock.advance(20_000);
  await late;
  const ended = assert.rejects(chat.history("g", {}), { code: "closed" });
  await chat.stop();
  await ended;
  await assert.rejects(chat.history("g", {}), { code: "closed" });
});

test("a clock that is set makes no call give up earlier or later", async () => {
  for (const set of [3_600_000, -3_600_000]) {
    const { clock, server, chat } = await connected();
    server.kill();
    await clock.advance(0);
    let given = false;
    const late = assert.rejects(chat.history("g", {}), { code: "disconnected" }).then(() => (given = true));
    await clock.advance(1_000);
    clock.set(set);
    await clock.advance(18_000);
    assert.equal(given, false);
    await clock.advance(1_000);
    await late;
    const retried = await connected();
    let tries = 0;
    retried.server.intercept = (asked) => asked === "history" && ((tries += 1), { error: { code: "unavailable", message: "" } });
    const refused = assert.rejects(retried.chat.history("g", {}), { code: "unavailable" });
    await retried.clock.advance(0);
    retried.clock.set(set);
    await retried.clock.advance(15_000);
    assert.ok(tries > 3, "it goes on trying");
    await retried.clock.advance(15_000);
    await refused;
  }
});

test("an answer that comes too late is nobody's", async () => {
  const { clock, server, chat } = await connected();
  server.group("g", ["bob", "alice"]);
  await clock.advance(0);
  let id;
  server.intercept = (asked) => (asked === "history" ? "ignore" : undefined);
  const [session] = server.sessions;
  const receive = session.receive.bind(session);
  session.receive = (frame) => ((id ??= frame.op === "history" ? frame.id : undefined), receive(frame));
  const refused = assert.rejects(chat.history("g", {}), { code: "timeout" });
  await clock.advance(60_000);
  await refused;
  session.event({ re: id, ok: { records: [], more: false } });
  await clock.advance(0);
  assert.equal(chat.status.state, "online");
});

test("a frame that cannot be read ends the connection, and what is not known is passed over", async () => {
  const { clock, server, chat, heard } = await connected();
  const [session] = server.sessions;
  for (const frame of [{ ev: "typing" }, { hello: "later version" }, { re: 999, ok: {} }, { error: { code: "malformed" } }]) {
    session.event(frame);
  }
  await clock.advance(0);
  assert.deepEqual(states(heard), ["connecting", "online"]);
  session.socket.onmessage({ data: "not JSON" });
  await clock.advance(0);
  assert.deepEqual(states(heard).slice(2), ["waiting lost"]);
  await clock.advance(1_000);
  assert.equal(chat.status.state, "online");
});

test("what the server takes is known from the first connection on", async () => {
  const clock = fakeClock();
  const server = new FakeServer(clock, { limits: { content_bytes: 100 } });
  const { chat } = client(server, clock, "alice");
  assert.equal(chat.limits, null);
  await chat.start();
  await clock.advance(0);
  assert.equal(chat.limits.content_bytes, 100);
  server.kill();
  await clock.advance(0);
  assert.equal(chat.limits.content_bytes, 100, "also without a connection");
});

test("a frame above the server's limit is not sent", async () => {
  const { server, chat } = await connected();
  const asked = server.asked.length;
  await assert.rejects(chat.join("x".repeat(200_000)), { code: "too_large" });
  assert.equal(server.asked.length, asked);
});

test("a socket that cannot even be opened is tried again", async () => {
  const clock = fakeClock();
  const server = new FakeServer(clock);
  let tries = 0;
  const openSocket = (...where) => {
    tries += 1;
    if (tries < 3) throw new SyntaxError("blocked");
    return server.openSocket(...where);
  };
  const { chat } = client(server, clock, "alice", { openSocket });
  await chat.start();
  await clock.advance(10_000);
  assert.equal(chat.status.state, "online");
});

test("a client that was stopped leaves no timer and does not come back", async () => {
  const { clock, chat } = await connected();
  // A heartbeat was answered 5 s ago; nothing waits for it any more.
  await clock.advance(95_000);
  await chat.stop();
  assert.equal(clock.timers, 0);
  await clock.advance(100_000);
  assert.equal(chat.status.state, "closed");
});

test("browsers' own WebSocket is the default", async (t) => {
  const asked = [];
  globalThis.WebSocket = class {
    readyState = 0;
    constructor(...where) {
      asked.push(where);
    }
    close() {}
  };
  t.after(() => delete globalThis.WebSocket);
  const clock = fakeClock();
  const chat = new ChatClient({ url: "wss://chat/im", token: "t", user: "a", device: "d", env: clock });
  await chat.start();
  await clock.advance(0);
  assert.deepEqual(asked, [["wss://chat/im", ["im.v1.json"]]]);
  await chat.stop();
});

test("a request without a connection fails at once", async () => {
  const on = { status() {}, welcome() {}, vitals() {}, event() {} };
  const connection = new Connection({ url: "", user: "alice", openSocket: () => assert.fail(), hello: async () => ({}), env: fakeClock(), on });
  await assert.rejects(connection.request(op.ping()), { code: "disconnected" });
  await assert.rejects(connection.call(op.ping()), { code: "closed" });
});

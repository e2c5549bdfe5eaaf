import assert from "node:assert/strict";
import test from "node:test";
import { fakeClock } from "./clock.mjs";
import { FakeServer } from "./fake-server.mjs";
import { client } from "./support.mjs";

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => `${from + index}`);

/** A group in which bob has said 1 to `count`; alice looks at it. */
async function world(count) {
  const clock = fakeClock();
  const server = new FakeServer(clock);
  server.group("g", ["bob", "alice"]);
  for (const content of numbers(1, count)) server.append("g", { from: "bob", content });
  const { chat } = client(server, clock, "alice");
  await chat.start();
  await clock.advance(0);
  let changes = 0;
  const window = chat.window("g", () => (changes += 1));
  const texts = () => window.records.filter(({ kind }) => kind === "message").map(({ content }) => content);
  return { clock, server, chat, window, texts, changes: () => changes };
}

test("it shows the newest page, and grows upwards to the beginning", async () => {
  const { window, texts, changes } = await world(120);
  await window.open();
  assert.deepEqual(texts(), numbers(71, 120));
  await window.older();
  assert.deepEqual(texts(), numbers(21, 120));
  assert.equal(window.complete, false);
  await window.older();
  assert.deepEqual([texts(), window.complete], [numbers(1, 120), true]);
  const before = changes();
  await window.older();
  assert.equal(changes(), before, "there is nothing above");
});

test("what comes while the first page is loaded stands below it, once", async () => {
  const { clock, server, window, texts } = await world(10);
  server.latency = () => 100;
  const opened = window.open();
  server.append("g", { from: "bob", content: "11" });
  await clock.advance(1_000);
  await opened;
  assert.deepEqual(texts(), numbers(1, 11));
});

test("a beginning that was overtaken by another one shows nothing", async () => {
  const { clock, server, window, texts } = await world(10);
  let delay = 2_000;
  server.latency = () => delay;
  const first = window.open();
  await clock.advance(0);
  delay = 0;
  const second = window.open();
  await clock.advance(10_000);
  await Promise.all([first, second]);
  assert.deepEqual(texts(), numbers(1, 10));
});

test("after a reset it begins anew, without a gap, also when the connection fails meanwhile", async () => {
  const { clock, server, window, texts } = await world(10);
  await window.open();
  server.kill();
  for (const content of numbers(11, 90)) server.append("g", { from: "bob", content });
  server.user("alice").trimmed = server.user("alice").inbox.length;
  server.up = true;
  let failures = 2;
  server.intercept = (op, body) => (op === "history" && body.backward && failures-- > 0 ? { error: { code: "internal", message: "" } } : undefined);
  await clock.advance(60_000);
  assert.deepEqual(texts(), []);
  server.kill();
  server.up = true;
  await clock.advance(60_000);
  assert.deepEqual(texts(), numbers(41, 90));
  server.append("g", { from: "bob", content: "91" });
  await clock.advance(0);
  assert.deepEqual(texts(), numbers(41, 91));
});

test("after a bootstrap an empty one shows what came meanwhile", async () => {
  const { clock, server, chat } = await world(1);
  const { id } = await chat.openSingle("bob");
  const window = chat.window(id, () => {});
  await window.open();
  server.kill();
  for (const content of ["hi", "are you there?"]) server.append(id, { from: "bob", content });
  server.user("alice").trimmed = server.user("alice").inbox.length;
  server.up = true;
  await clock.advance(60_000);
  assert.deepEqual(window.records.map(({ content }) => content), ["hi", "are you there?"]);
});

test("what a server lost is taken out", async () => {
  const { clock, server, window, texts } = await world(5);
  await window.open();
  const conversation = server.conversations.get("g");
  conversation.records = conversation.records.slice(0, 4);
  server.append("g", { from: "bob", content: "after", hole: 2 ** 20 });
  await clock.advance(0);
  assert.deepEqual(texts(), ["1", "2", "3", "after"]);
});

test("it is bounded while one is at its end, and what went comes back", async () => {
  const { clock, server, window, texts } = await world(1);
  await window.open();
  for (const content of numbers(2, 2001)) server.append("g", { from: "bob", content });
  await clock.advance(1_000);
  assert.ok(window.records.length <= 2000 && window.records.length >= 1000);
  assert.equal(texts().pop(), "2001");
  const first = Number(texts()[0]);
  await window.older();
  assert.deepEqual(texts(), numbers(first - 50, 2001));
});

test("what is far above stays as long as the page above it is on its way", async () => {
  const { clock, server, window, texts } = await world(2_500);
  await window.open();
  while (window.records.length < 2_000) await window.older();
  server.latency = () => 100;
  const older = window.older();
  server.append("g", { from: "bob", content: "2501" });
  await clock.advance(1_000);
  await older;
  assert.deepEqual(texts(), numbers(451, 2_501));
  server.append("g", { from: "bob", content: "2502" });
  await clock.advance(1_000);
  assert.deepEqual(texts(), numbers(1_503, 2_502));
});

test("one that was closed hears nothing more", async () => {
  const { clock, server, window, texts, changes } = await world(1);
  await window.open();
  window.close();
  const before = changes();
  server.append("g", { from: "bob", content: "2" });
  await clock.advance(0);
  assert.deepEqual([texts(), changes()], [["1"], before]);
});

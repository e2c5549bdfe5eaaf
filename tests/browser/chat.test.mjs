// What is said on the page and seen there, in a real browser, against the real server.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { launch } from "./browser.mjs";
import { enter, enterBeside, sendAs } from "./page.mjs";
import { startServer } from "./server.mjs";

/** @type {import("playwright-core").Browser} */
let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => `${from + index}`);

test("two users chat both ways", async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(browser, server, "alice"), await enter(browser, server, "bob")];
  await alice.message("bob");
  await alice.write("你好，Bob！");
  await alice.sees("你好，Bob！", "sent");
  await bob.unread("alice", 1);
  await bob.open("alice");
  await bob.sees("你好，Bob！");
  await bob.unread("alice", 0);
  await bob.write("Hello Alice 👋");
  await alice.sees("Hello Alice 👋");
  assert.deepEqual(await alice.texts(), ["你好，Bob！", "Hello Alice 👋"]);
  assert.deepEqual(await bob.texts(), await alice.texts());
  await alice.screenshot("single-alice");
  await bob.screenshot("single-bob");
  assert.deepEqual([...alice.errors, ...bob.errors], []);
});

test("a group: created, joined by its id, chatted in, left", async (t) => {
  const server = await startServer(t);
  const [alice, bob, carol] = [
    await enter(browser, server, "alice"),
    await enter(browser, server, "bob"),
    await enter(browser, server, "carol"),
  ];
  await alice.createGroup("Reading circle 读书会", ["bob"]);
  await alice.page.locator(".notice", { hasText: "You created the group" }).waitFor();
  await alice.page.locator(".head .info").click();
  await alice.page.locator(".people li", { hasText: "bob" }).waitFor();
  await alice.screenshot("group-info");
  const id = await alice.page.locator("dialog code").textContent();
  await alice.page.keyboard.press("Escape");
  await carol.joinGroup(id);
  await bob.open("Reading circle 读书会");
  await bob.page.locator(".notice", { hasText: "carol joined" }).waitFor();
  await carol.write("大家好！");
  for (const window of [alice, bob]) await window.sees("大家好！");
  await bob.write("Welcome, Carol");
  await bob.write("We read chapter three this week.");
  await alice.write("Six o'clock?");
  await carol.sees("Six o'clock?");
  assert.deepEqual(await alice.texts(), ["大家好！", "Welcome, Carol", "We read chapter three this week.", "Six o'clock?"]);
  await carol.screenshot("group");
  bob.page.once("dialog", (sure) => sure.accept());
  await bob.page.locator(".head .info").click();
  await bob.page.locator("dialog .danger").click();
  await bob.page.locator(".composer .gone").waitFor();
  await alice.page.locator(".notice", { hasText: "bob left" }).waitFor();
  await alice.write("Bob does not see this");
  await carol.sees("Bob does not see this");
  assert.ok(!(await bob.texts()).includes("Bob does not see this"));
  await bob.screenshot("group-left");
  assert.deepEqual([...alice.errors, ...bob.errors, ...carol.errors], []);
});

test("unread counts clear in the user's other window", async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(browser, server, "alice"), await enter(browser, server, "bob")];
  const beside = await enterBeside(bob, server, "bob");
  await alice.message("bob");
  for (const text of ["one", "two", "three"]) await alice.write(text);
  for (const window of [bob, beside]) await window.unread("alice", 3);
  assert.equal(await beside.page.title(), "(3) Chat");
  await beside.screenshot("unread");
  await bob.open("alice");
  for (const window of [bob, beside]) await window.unread("alice", 0);
  assert.equal(await beside.page.title(), "Chat");
  await bob.write("from my first window");
  await beside.open("alice");
  await beside.sees("from my first window", "mine");
  await beside.unread("alice", 0);
  assert.deepEqual([...alice.errors, ...bob.errors, ...beside.errors], []);
});

test("history is paged upwards, and what one reads stays where it is", async (t) => {
  const server = await startServer(t);
  const bob = await enter(browser, server, "bob");
  await sendAs(bob, "alice", { to: "bob" }, numbers(1, 180));
  await bob.open("alice");
  await bob.page.locator(".down").click();
  await bob.unread("alice", 0);
  await bob.page.reload();
  await bob.sees("180");
  assert.ok((await bob.texts()).length < 180, "only the newest page at first");
  const scroller = bob.page.locator(".scroller");
  const first = bob.messages.first();
  for (let pages = 0; pages < 20 && !(await bob.texts()).includes("1"); pages += 1) {
    const [text, before] = [await first.locator(".text").textContent(), (await bob.texts()).length];
    await scroller.evaluate((element) => element.scrollTo({ top: 0, behavior: "instant" }));
    await bob.page.locator(`.messages .message >> nth=${before}`).waitFor();
    await bob.sees(text);
  }
  assert.deepEqual(await bob.texts(), numbers(1, 180));
  await bob.page.locator(".top", { hasText: "The beginning" }).waitFor({ state: "attached" });
  await bob.screenshot("history");
  assert.deepEqual(bob.errors, []);
});

test("while one reads further up, what stands there stays, and new messages are told of", async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(browser, server, "alice"), await enter(browser, server, "bob")];
  await sendAs(bob, "alice", { to: "bob" }, numbers(1, 60));
  await bob.open("alice");
  await bob.sees("60");
  await bob.page.locator(".down").click();
  await bob.unread("alice", 0);
  const line = bob.page.locator(".message[data-seq='30']");
  await line.scrollIntoViewIfNeeded();
  const before = await line.boundingBox();
  await alice.open("bob");
  await alice.write("news");
  const down = bob.page.locator(".down", { hasText: "1 new message" });
  await down.waitFor();
  assert.deepEqual(await line.boundingBox(), before);
  await bob.unread("alice", 1);
  await bob.screenshot("new-below");
  await down.click();
  await bob.unread("alice", 0);
  assert.deepEqual([...alice.errors, ...bob.errors], []);
});

test("reading begins at the first unread message, however far up, and nothing is read before its end was reached", async (t) => {
  const server = await startServer(t);
  const bob = await enter(browser, server, "bob");
  await sendAs(bob, "alice", { to: "bob" }, numbers(1, 30));
  await bob.unread("alice", 30);
  await bob.open("alice");
  await bob.page.locator(".down", { hasText: "30 new messages" }).click();
  await bob.unread("alice", 0);
  await bob.page.goBack();
  await sendAs(bob, "alice", { to: "bob" }, numbers(31, 190));
  await bob.page.locator(".conversation .badge", { hasText: "99+" }).waitFor();
  await bob.open("alice");
  const down = bob.page.locator(".down", { hasText: "160 new messages" });
  await down.waitFor();
  const [box, divider, first] = await Promise.all(
    [".scroller", ".divider", ".divider + .message"].map((each) => bob.page.locator(each).boundingBox()),
  );
  assert.ok(divider.y >= box.y && divider.y < box.y + 60, `the line stands at ${divider.y - box.y}`);
  assert.ok(first.y + first.height < box.y + box.height);
  assert.equal(await bob.page.locator(".divider + .message .text").textContent(), "31");
  await bob.screenshot("many-unread");
  assert.equal(await bob.page.title(), "(160) Chat");
  await down.click();
  await bob.unread("alice", 0);
  assert.deepEqual(bob.errors, []);
});

test("what was written and not sent stays with its conversation", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  for (const name of ["bob", "carol"]) await sendAs(alice, name, { to: "alice" }, [`I am ${name}`]);
  const field = alice.page.locator(".composer textarea");
  await alice.open("bob");
  await field.fill("dear Bob,\nhow are you?");
  await alice.open("carol");
  assert.equal(await field.inputValue(), "");
  await field.fill("dear Carol");
  await alice.open("bob");
  assert.equal(await field.inputValue(), "dear Bob,\nhow are you?");
  await field.press("Enter");
  await alice.sees("dear Bob,\nhow are you?", "sent");
  await alice.page.goBack();
  assert.equal(await field.inputValue(), "dear Carol");
  await alice.open("bob");
  assert.equal(await field.inputValue(), "");
});

test("kill -9 of the server and a restart: nothing lost, nothing doubled, order kept", async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(browser, server, "alice"), await enter(browser, server, "bob")];
  const beside = await enterBeside(bob, server, "bob");
  await alice.message("bob");
  await alice.write("a0");
  for (const window of [bob, beside]) await window.open("alice");
  await bob.sees("a0");
  let next = 1;
  const both = async (count) => {
    for (let each = 0; each < count; each += 1, next += 1) await Promise.all([alice.write(`a${next}`), bob.write(`b${next}`)]);
  };
  for (let round = 0; round < 3; round += 1) {
    await both(5);
    await server.kill();
    await alice.page.locator(".banner.waiting").waitFor();
    await both(3);
    await alice.sees(`a${next - 1}`, "pending");
    if (round === 0) {
      assert.equal(await alice.page.locator(".who .status").textContent(), "Not connected", "the bar says more");
      await alice.screenshot("offline");
    }
    await server.restart();
    for (const window of [alice, bob, beside]) await window.online();
  }
  await alice.sees(`a${next - 1}`, "sent");
  await bob.sees(`b${next - 1}`, "sent");
  for (const window of [alice, bob, beside]) {
    for (const last of [`a${next - 1}`, `b${next - 1}`]) await window.sees(last, "sent");
  }
  const texts = await alice.texts();
  for (const who of ["a", "b"]) {
    const said = numbers(who === "a" ? 0 : 1, next - 1).map((number) => `${who}${number}`);
    assert.deepEqual(texts.filter((text) => text.startsWith(who)), said);
  }
  assert.deepEqual(await bob.texts(), texts);
  assert.deepEqual(await beside.texts(), texts);
  await alice.screenshot("after-restarts");
  await alice.page.reload();
  await alice.online();
  await alice.sees(`b${next - 1}`);
  assert.deepEqual((await alice.texts()).slice(-10), texts.slice(-10), "and the same after a reload");
});

test("a group that grew large is read as before", async (t) => {
  const server = await startServer(t, ["--read-diffusion-threshold", "3"]);
  const [alice, bob] = [await enter(browser, server, "alice"), await enter(browser, server, "bob")];
  await alice.createGroup("Crowd", ["bob"]);
  await alice.write("while it was small");
  await bob.unread("Crowd", 1);
  await alice.page.locator(".head .info").click();
  const invite = alice.page.locator("dialog form");
  await invite.locator("input").fill("carol, dave smith");
  await invite.locator("button[type=submit]").click();
  await alice.page.locator(".people li", { hasText: "dave smith" }).waitFor();
  const id = await alice.page.locator("dialog code").textContent();
  await alice.page.keyboard.press("Escape");
  for (const text of numbers(1, 12)) await alice.write(text);
  await alice.sees("12", "sent");
  await bob.unread("Crowd", 13);
  await bob.open("Crowd");
  await bob.sees("12");
  await bob.unread("Crowd", 0);
  await bob.write("from bob");
  await alice.sees("from bob");
  await sendAs(alice, "erin", { group: id }, ["late but here"]);
  for (const window of [alice, bob]) await window.sees("late but here");
  assert.deepEqual(await alice.texts(), ["while it was small", ...numbers(1, 12), "from bob", "late but here"]);
  assert.deepEqual(await bob.texts(), await alice.texts());
});

test("a new chat says that it begins here, in the list too", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  await alice.message("bob");
  await alice.page.locator(".top", { hasText: "The beginning of the conversation" }).waitFor();
  await alice.row("bob").locator(".preview", { hasText: "No messages yet" }).waitFor();
  await alice.screenshot("new-chat");
  assert.deepEqual(alice.errors, []);
});

test("the list tells of the newest message also while it waits to be sent", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  await alice.message("bob");
  await alice.write("sent before");
  await alice.sees("sent before", "sent");
  await server.kill();
  await alice.page.locator(".banner.waiting").waitFor();
  for (const text of ["waits", "waits too"]) await alice.write(text);
  const row = alice.row("bob");
  await row.locator(".preview", { hasText: "You: waits too" }).waitFor();
  await row.getByLabel("Being sent").waitFor();
  await alice.screenshot("list-offline");
  await server.restart();
  await row.getByLabel("Being sent").waitFor({ state: "detached" });
  await row.locator(".preview", { hasText: "You: waits too" }).waitFor();
});

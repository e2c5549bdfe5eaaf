// The page itself, in a real browser, against the real server: what it looks like, bears and refuses.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { launch } from "./browser.mjs";
import { enter, sendAs } from "./page.mjs";
import { startServer } from "./server.mjs";

/** @type {import("playwright-core").Browser} */
let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

/** How well each of the eight colours of names stands out from a bubble, as WCAG counts it. */
function contrastsOfTints(name) {
  const pencil = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (color) => {
    pencil.fillStyle = color;
    pencil.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...pencil.getImageData(0, 0, 1, 1).data].map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const paper = light(getComputedStyle(name.closest(".bubble")).backgroundColor);
  const contrast = (ink) => Math.max(ink, paper) / Math.min(ink, paper);
  const own = name.className;
  const contrasts = [0, 1, 2, 3, 4, 5, 6, 7].map((number) => {
    name.className = `from tint-${number}`;
    return contrast(light(getComputedStyle(name).color));
  });
  name.className = own;
  return contrasts;
}

const PHONE = { viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true };

test("markup in messages, names and group names is shown as text", async (t) => {
  const server = await startServer(t);
  const evil = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>`;
  const mallory = `<b onclick=hacked()>M</b>`;
  const [alice, other] = [await enter(browser, server, "alice"), await enter(browser, server, mallory)];
  await other.createGroup(evil.slice(0, 80), ["alice"]);
  await other.write(evil);
  await other.write("javascript:alert(1) ' \" & &amp; \u202e");
  await alice.row(evil.slice(0, 80)).click();
  await alice.sees(evil);
  for (const window of [alice, other]) {
    assert.equal(await window.page.evaluate(() => globalThis.hacked), undefined);
    assert.equal(await window.page.locator(".app img, .app script, .app b").count(), 0);
    assert.deepEqual(window.errors, []);
  }
  assert.equal((await alice.texts())[0], evil);
  await alice.screenshot("markup");
});

test("addresses in messages are links, and nothing else is", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  const texts = [
    "see https://example.com/a?b=1&c=%20#d, and (http://example.org/x_(y)).",
    "看https://example.com/中，很好 javascript:alert(1) data:text/html,x ftp://example.com",
    "https:// http://name:word@example.com https://bank.example@example.com <a href='https://example.net/\"onclick=\"x'>",
  ];
  await sendAs(alice, "bob", { to: "alice" }, texts);
  await alice.unread("bob", 3);
  await alice.open("bob");
  await alice.messages.nth(2).waitFor();
  const links = alice.page.locator(".messages a");
  const hrefs = await links.evaluateAll((all) => all.map((one) => [one.getAttribute("href"), one.textContent]));
  const expected = [
    "https://example.com/a?b=1&c=%20#d",
    "http://example.org/x_(y)",
    "https://example.com/",
    "https://example.net/",
  ];
  assert.deepEqual(hrefs, expected.map((one) => [one, one]));
  assert.deepEqual(await links.evaluateAll((all) => [...new Set(all.map(({ rel, target }) => `${rel} ${target}`))]), [
    "noopener noreferrer _blank",
  ]);
  assert.deepEqual(await alice.texts(), texts, "and no text is changed by it");
  await alice.screenshot("links");
  assert.deepEqual(alice.errors, []);
});

test("names in a group have the colour of their avatars, and can be read in both themes", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  await alice.createGroup("Friends", ["bob"]);
  await alice.page.locator(".head .info").click();
  const id = await alice.page.locator("dialog code").textContent();
  await alice.page.keyboard.press("Escape");
  for (const name of ["bob", "carol", "dave"]) await sendAs(alice, name, { group: id }, [`I am ${name}`]);
  await alice.sees("I am dave");
  const tints = async (where) =>
    (await alice.page.locator(where).evaluateAll((all) => all.map(({ className }) => className))).map((one) => /tint-\d/.exec(one)[0]);
  const [names, faces] = [await tints(".message .from"), await tints(".message.first .avatar")];
  assert.equal(new Set(names).size, 3);
  assert.deepEqual(names, faces);
  for (const colorScheme of ["light", "dark"]) {
    await alice.page.emulateMedia({ colorScheme });
    const contrasts = await alice.page.locator(".message .from").first().evaluate(contrastsOfTints);
    assert.ok(contrasts.every((one) => one >= 4.5), `${colorScheme}: ${contrasts.map((one) => one.toFixed(1))}`);
    await alice.screenshot(`names-${colorScheme}`);
  }
});

test("a window whose device is opened elsewhere says so, and comes back when asked", async (t) => {
  const server = await startServer(t);
  const first = await enter(browser, server, "alice");
  const kept = await first.page.evaluate(() => ({ ...sessionStorage }));
  const elsewhere = await browser.newContext({ viewport: { width: 1100, height: 720 }, locale: "en-GB" });
  await elsewhere.addInitScript((items) => Object.entries(items).forEach(([key, value]) => sessionStorage.setItem(key, value)), kept);
  const second = await elsewhere.newPage();
  await second.goto(server.url);
  await second.locator(".who .status.online").waitFor();
  await first.page.locator(".banner.closed", { hasText: "opened in another window" }).waitFor();
  assert.equal(await first.page.locator(".who .status").textContent(), "Not connected");
  await first.screenshot("kicked");
  await first.page.locator(".banner button").click();
  await first.online();
  await second.locator(".banner.closed").waitFor();
  assert.deepEqual(first.errors, []);
});

test("a duplicated window is a device of its own", async (t) => {
  const server = await startServer(t);
  const first = await enter(browser, server, "alice");
  const kept = await first.page.evaluate(() => ({ ...sessionStorage }));
  const second = await first.page.context().newPage();
  await second.addInitScript((items) => Object.entries(items).forEach(([key, value]) => sessionStorage.setItem(key, value)), kept);
  await second.goto(server.url);
  await second.locator(".who .status.online").waitFor();
  await first.message("bob");
  await first.write("still here");
  await first.sees("still here", "sent");
  await second.locator(".conversation", { hasText: "still here" }).waitFor();
});

test("a reload keeps the place: who one is, the open conversation, what was written", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  await alice.message("bob");
  await alice.write("before the reload");
  await alice.sees("before the reload", "sent");
  await server.kill();
  await alice.page.locator(".banner.waiting").waitFor();
  await alice.write("written offline");
  await alice.sees("written offline", "pending");
  await server.restart();
  await alice.page.reload();
  await alice.online();
  await alice.sees("written offline", "sent");
  assert.deepEqual(await alice.texts(), ["before the reload", "written offline"]);
});

test("a message that is too long stays in the field, and the limit is said", async (t) => {
  const server = await startServer(t, ["--content-bytes", "100"]);
  const alice = await enter(browser, server, "alice");
  await alice.message("bob");
  await alice.write("太长".repeat(50));
  const problem = alice.page.locator(".composer .problem", { hasText: "it has 300 bytes, a message at most 100" });
  await problem.waitFor();
  await alice.screenshot("too-long");
  assert.equal(await alice.page.locator(".composer textarea").inputValue(), "太长".repeat(50));
  assert.equal(await alice.messages.count(), 0);
  await alice.page.locator(".composer textarea").fill("short");
  await problem.waitFor({ state: "detached" });
  await alice.page.keyboard.press("Enter");
  await alice.sees("short", "sent");
  assert.deepEqual(alice.errors, []);
});

test("what is refused is said in words, and can be deleted; sent again only where that can help", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  await alice.message("bob");
  await server.kill();
  await alice.page.locator(".banner.waiting").waitFor();
  await alice.write("太长".repeat(50));
  server.flags.push("--content-bytes", "100");
  await server.restart();
  await alice.page.locator(".refusal", { hasText: "That is too long." }).waitFor();
  assert.deepEqual(await alice.page.locator(".refusal button").allTextContents(), ["Delete"]);
  await alice.write("short");
  await alice.sees("short", "sent");
  await alice.screenshot("refused");
  await alice.page.locator(".refusal button", { hasText: "Delete" }).click();
  await alice.page.locator(".refusal").waitFor({ state: "detached" });
  await alice.page.locator("button.new").click();
  const join = alice.page.locator("dialog form").nth(2);
  await join.locator("input").fill("nowhere");
  await join.locator("button[type=submit]").click();
  await join.locator(".problem", { hasText: "There is no such group." }).waitFor();
  await alice.screenshot("no-such-group");
});

test("of a name that does not work it is said which, and why", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  const long = "很".repeat(22);
  await alice.page.locator("button.new").click();
  const form = (section) => alice.page.locator("dialog form").nth(section);
  const refused = async (section, name, text, problem) => {
    await form(section).locator(`[name=${name}]`).fill(text);
    await form(section).locator("button[type=submit]").click();
    await form(section).locator(".problem", { hasText: problem }).waitFor();
  };
  await refused(0, "person", long, "“很很很很很很很很很很很很…” is too long: a name has at most 64 bytes");
  await refused(0, "person", "alice", "That is yourself");
  await form(1).locator("[name=group-name]").fill("Friends");
  await refused(1, "group-members", `bob, ${long}`, "“很很很很很很很很很很很很…” is too long");
  await alice.screenshot("long-name-refused");
  await alice.page.keyboard.press("Escape");
  await alice.createGroup("Friends", ["bob"]);
  await alice.page.locator(".head .info").click();
  await refused(0, "invite", "x".repeat(65), "“xxxxxxxxxxxx…” is too long");
  await alice.page.keyboard.press("Escape");
  await alice.page.locator(".sign-out").click();
  await alice.page.locator("#name").fill(long);
  await alice.page.locator("form button[type=submit]").click();
  await alice.page.locator(".login .problem", { hasText: "too long: a name has at most 64 bytes" }).waitFor();
  assert.deepEqual(alice.errors, []);
});

test("a long name pushes nothing out of a group's info", async (t) => {
  const server = await startServer(t);
  const name = "W".repeat(62);
  const owner = await enter(browser, server, name);
  await owner.createGroup("Friends", ["bob"]);
  for (const width of [1100, 375]) {
    await owner.page.setViewportSize({ width, height: 667 });
    await owner.page.locator(".head .info").click();
    const line = owner.page.locator(".people li", { hasText: name });
    await line.locator(".rank", { hasText: "owner" }).waitFor();
    const [dialog, rank] = await Promise.all([owner.page.locator("dialog"), line.locator(".rank")].map((one) => one.boundingBox()));
    assert.ok(rank.x + rank.width <= dialog.x + dialog.width, `the role is inside at ${width}`);
    assert.equal(await owner.page.locator("dialog").evaluate((one) => one.scrollWidth - one.clientWidth), 0);
    assert.equal(await line.locator(".name").getAttribute("title"), name);
    await owner.screenshot(`long-name-${width}`);
    await owner.page.keyboard.press("Escape");
  }
});

test("a server that does not know the sign-in any more asks for it again", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  await alice.message("bob");
  await alice.write("hi");
  await alice.sees("hi", "sent");
  await server.kill();
  await server.forget();
  await server.restart();
  await alice.page.locator(".login .problem", { hasText: "Please sign in again." }).waitFor();
  await alice.page.locator("form button[type=submit]").click();
  await alice.online();
  await alice.page.locator(".list .nothing").waitFor();
});

test("the keyboard is enough", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  for (const name of ["bob", "carol"]) await sendAs(alice, name, { to: "alice" }, [`I am ${name}`]);
  await alice.unread("carol", 1);
  const { keyboard } = alice.page;
  await alice.row("carol").focus();
  await keyboard.press("ArrowDown");
  await keyboard.press("Enter");
  await alice.sees("I am bob");
  await keyboard.type("hello");
  await keyboard.press("Shift+Enter");
  await keyboard.type("bob");
  await keyboard.press("Enter");
  await alice.sees("hello\nbob", "sent");
  await alice.page.locator("button.new").focus();
  await keyboard.press("Enter");
  await keyboard.type("dave");
  await keyboard.press("Enter");
  await alice.page.locator(".pane .head h2", { hasText: "dave" }).waitFor();
  assert.deepEqual(alice.errors, []);
});

test("on a phone, in Chinese: the list, a conversation, and back", async (t) => {
  const server = await startServer(t);
  const xiaoming = await enter(browser, server, "小明", { ...PHONE, locale: "zh-CN" });
  await sendAs(xiaoming, "小红", { to: "小明" }, ["下午好！", "晚上一起吃饭吗？我知道一家很不错的饺子馆，就在地铁站旁边，走路五分钟就到。"]);
  await xiaoming.unread("小红", 2);
  await xiaoming.screenshot("phone-list");
  await xiaoming.open("小红");
  await xiaoming.sees("下午好！");
  await xiaoming.write("好啊，几点？");
  await xiaoming.sees("好啊，几点？", "sent");
  await xiaoming.screenshot("phone-chat");
  assert.equal(await xiaoming.page.locator(".side").isVisible(), false);
  await xiaoming.page.goBack();
  await xiaoming.row("小红").waitFor();
  assert.equal(await xiaoming.page.locator(".pane").isVisible(), false);
  await xiaoming.page.locator("button.new").click();
  await xiaoming.page.locator("dialog h3", { hasText: "新建群组" }).waitFor();
  await xiaoming.screenshot("phone-dialog");
  const overflow = await xiaoming.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.equal(overflow, 0, "nothing is wider than the screen");
  assert.deepEqual(xiaoming.errors, []);
});

test("on a small phone the field is as high as its line, also after a reload", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice", { ...PHONE, viewport: { width: 375, height: 667 } });
  await alice.message("bob");
  const height = async () => (await alice.page.locator(".composer textarea").boundingBox()).height;
  assert.ok((await height()) >= 40, "at first");
  await alice.write("hi");
  await alice.sees("hi", "sent");
  await alice.page.reload();
  await alice.sees("hi");
  assert.ok((await height()) >= 40, "after a reload");
  await alice.screenshot("phone-small");
});

test("signing out asks first while messages wait to be sent", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice");
  await alice.message("bob");
  await server.kill();
  await alice.page.locator(".banner.waiting").waitFor();
  for (const text of ["one", "two"]) await alice.write(text);
  const asked = [];
  const answer = (sure) => alice.page.once("dialog", (dialog) => (asked.push(dialog.message()), sure ? dialog.accept() : dialog.dismiss()));
  answer(false);
  await alice.page.locator(".sign-out").click();
  await alice.sees("two", "pending");
  answer(true);
  await alice.page.locator(".sign-out").click();
  await alice.page.locator(".login").waitFor();
  assert.deepEqual(asked, Array(2).fill("2 messages were not sent yet. Sign out and lose them?"));
});

test("signing out leaves nothing in the window", async (t) => {
  const server = await startServer(t);
  const alice = await enter(browser, server, "alice", { colorScheme: "dark" });
  await alice.message("bob");
  await alice.write("hi");
  await alice.sees("hi", "sent");
  await alice.screenshot("dark");
  await alice.page.locator(".sign-out").click();
  await alice.page.locator(".login").waitFor();
  await alice.screenshot("login");
  assert.deepEqual(await alice.page.evaluate(() => Object.keys(sessionStorage)), []);
  assert.deepEqual(alice.errors, []);
});

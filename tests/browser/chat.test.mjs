// The page in a real browser, against the real server.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { launch } from "./browser.mjs";
import { enter, enterBeside } from "./page.mjs";
import { startServer } from "./server.mjs";

/** @type {import("playwright-core").Browser} */
let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

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

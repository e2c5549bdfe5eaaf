import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";
import { realEnv } from "../src/env.js";
import { FakeServer } from "./fake-server.mjs";

test("the code in the README runs as it stands there", async (t) => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const [, code] = /```js\n([\s\S]*?)```/.exec(readme);
  assert.ok(code.trim().split("\n").length <= 25, "it is short");
  const server = new FakeServer(realEnv);
  const shown = { states: [], lists: 0, texts: [] };
  const globals = {
    WebSocket: function WebSocket(url, protocols) {
      return server.openSocket(url, protocols);
    },
    fetch: async () => ({ text: async () => "token-alice" }),
    localStorage: { getItem: () => null, setItem() {}, removeItem() {} },
    showStatus: (state) => shown.states.push(state),
    showList: () => (shown.lists += 1),
    showMessages: (records, outgoing) => (shown.texts = [...records, ...outgoing].map(({ content }) => content)),
  };
  const before = Object.fromEntries(Object.keys(globals).map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]));
  for (const [name, value] of Object.entries(globals)) Object.defineProperty(globalThis, name, { value, configurable: true });
  const folder = mkdtempSync(join(tmpdir(), "im-readme-"));
  t.after(() => {
    rmSync(folder, { recursive: true });
    for (const [name, old] of Object.entries(before)) old ? Object.defineProperty(globalThis, name, old) : delete globalThis[name];
  });
  const client = new URL("../src/index.js", import.meta.url).href;
  writeFileSync(join(folder, "readme.mjs"), `${code.replace('"im-client"', JSON.stringify(client))}\nexport { chat };`);
  const { chat } = await import(pathToFileURL(join(folder, "readme.mjs")).href);
  await chat.stop();
  assert.deepEqual(shown.states, ["connecting", "online", "closed"]);
  assert.ok(shown.lists > 0);
  assert.deepEqual(shown.texts, ["你好"]);
});

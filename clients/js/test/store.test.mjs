import assert from "node:assert/strict";
import test from "node:test";
import { Store } from "../src/store.js";
import { fakeClock } from "./clock.mjs";

/** A storage that notes what is written and fails on demand. */
function storage() {
  const kept = new Map();
  const written = [];
  const self = {
    kept,
    written,
    fails: () => false,
    getItem: async (key) => kept.get(key) ?? null,
    setItem: async (key, value) => {
      if (self.fails(key)) throw new Error("full");
      written.push(key);
      kept.set(key, value);
    },
    removeItem: async (key) => void kept.delete(key),
  };
  return self;
}

function store(on, failed = () => assert.fail()) {
  return new Store(on, "im", fakeClock(), failed);
}

async function reopened(on) {
  const again = store(on);
  await again.load();
  return again;
}

test("what was put is there again, and only what changed is written", async () => {
  const on = storage();
  const first = store(on);
  first.put({ id: "a", n: 1 });
  first.put({ id: "b", n: 1 });
  first.cursor = "c1";
  first.state = "s1";
  await first.flush();
  on.written.length = 0;
  first.put({ id: "b", n: 2 });
  first.cursor = "c2";
  await first.flush();
  assert.deepEqual(on.written, ["im:c:b", "im:base"], "the cursor last");
  first.remove("a");
  await first.flush();
  const again = await reopened(on);
  assert.deepEqual([again.list(), again.cursor, again.state], [[{ id: "b", n: 2 }], "c2", "s1"]);
  assert.equal(on.kept.has("im:c:a"), false);
});

test("changes are gathered", async () => {
  const on = storage();
  const clock = fakeClock();
  const first = new Store(on, "im", clock, () => assert.fail());
  for (let count = 0; count < 100; count += 1) {
    first.put({ id: "a", count });
    first.cursor = `c${count}`;
  }
  await clock.advance(50);
  assert.deepEqual(on.written, ["im:c:a", "im:ids", "im:base"]);
});

test("whenever writing stops, what is read is as it was, or newer below an older cursor", async () => {
  for (let writes = 0; writes < 8; writes += 1) {
    const on = storage();
    const first = store(on, () => {});
    for (const id of ["a", "b"]) first.put({ id, at: 1 });
    first.cursor = "c1";
    await first.flush();
    let left = writes;
    on.fails = () => left-- <= 0;
    for (const id of ["a", "b", "c"]) first.put({ id, at: 2 });
    first.cursor = "c2";
    await first.flush();
    const again = await reopened(on);
    const at = again.list().map((one) => one.at);
    if (again.cursor === "c2") assert.deepEqual(at, [2, 2, 2]);
    else assert.ok(again.cursor === "c1" && at.length >= 2);
  }
});

test("what could not be written is written with the next change", async () => {
  const on = storage();
  let failures = 0;
  const first = store(on, () => (failures += 1));
  on.fails = () => true;
  first.put({ id: "a" });
  first.cursor = "c";
  await first.flush();
  on.fails = () => false;
  await first.flush();
  const again = await reopened(on);
  assert.deepEqual([failures, again.list(), again.cursor], [1, [{ id: "a" }], "c"]);
});

test("what cannot be read in full is not used", async () => {
  const ruined = {
    "a conversation is missing": (kept) => kept.delete("im:c:a"),
    "another version": (kept) => kept.set("im:base", '{"version":0,"cursor":"c"}'),
    "no JSON": (kept) => kept.set("im:base", "{"),
  };
  for (const [what, ruin] of Object.entries(ruined)) {
    const on = storage();
    const first = store(on);
    first.put({ id: "a" });
    first.cursor = "c";
    await first.flush();
    ruin(on.kept);
    let failures = 0;
    const again = store(on, () => (failures += 1));
    await again.load();
    assert.deepEqual([again.list(), again.cursor, failures], [[], null, what === "no JSON" ? 1 : 0], what);
  }
});

import assert from "node:assert/strict";
import test from "node:test";
import { fillRandom, idSource } from "../src/ids.js";

const SHAPE = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const timeOf = (id) => Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16);

test("an id is a UUID of version 7 with the clock's time", () => {
  const now = 1_800_000_000_123;
  const id = idSource(() => now)();
  assert.match(id, SHAPE);
  assert.equal(timeOf(id), now);
});

test("ids grow within a millisecond, over its counter's end, and when the clock runs backwards", () => {
  let now = 1_800_000_000_000;
  const next = idSource(() => now);
  let last = "";
  for (let count = 0; count < 10_000; count += 1) {
    if (count === 6_000) now -= 60_000;
    const id = next();
    assert.match(id, SHAPE);
    assert.ok(id > last, `${id} after ${last}`);
    last = id;
  }
  assert.ok(timeOf(last) - 1_800_000_000_000 <= 10, "the time runs ahead by a few milliseconds at most");
});

test("two sources do not meet", () => {
  const ids = new Set();
  const now = () => 1_800_000_000_000;
  for (let source = 0; source < 100; source += 1) {
    const next = idSource(now);
    for (let count = 0; count < 100; count += 1) ids.add(next());
  }
  assert.equal(ids.size, 10_000);
});

test("without crypto, as in a mini-program, bytes are random all the same", (t) => {
  const crypto = Object.getOwnPropertyDescriptor(globalThis, "crypto");
  Object.defineProperty(globalThis, "crypto", { value: undefined, configurable: true });
  t.after(() => Object.defineProperty(globalThis, "crypto", crypto));
  const bytes = fillRandom(new Uint8Array(256));
  assert.ok(new Set(bytes).size > 100);
  assert.match(idSource(() => 1)(), SHAPE);
});

import assert from "node:assert/strict";
import test from "node:test";
import { backoff } from "../src/backoff.js";
import { chance } from "./clock.mjs";

test("the bound doubles up to the most, and falls back after a reset", () => {
  const waits = backoff({ first: 500, most: 30_000, random: () => 1 });
  const bounds = Array.from({ length: 9 }, () => waits.next());
  assert.deepEqual(bounds, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  waits.reset();
  assert.equal(waits.next(), 500);
});

test("full jitter: anything between nothing and the bound", () => {
  const { number } = chance(7);
  const waits = Array.from({ length: 1000 }, () => {
    const one = backoff({ first: 1000, most: 1000, random: number });
    return one.next();
  });
  assert.ok(Math.min(...waits) < 20 && Math.max(...waits) > 980);
  const mean = waits.reduce((sum, wait) => sum + wait, 0) / waits.length;
  assert.ok(mean > 450 && mean < 550, `mean ${mean}`);
});

import assert from "node:assert/strict";
import test from "node:test";
import { pace } from "../src/pace.js";

/** Of 10 frames a second and 5 at once, a fifth is left over: 8 and 4. */
function bucket() {
  const clock = { time: 1_800_000_000_000 };
  return { clock, next: pace({ now: () => clock.time }, { rate: 10, burst: 5 }) };
}

test("a burst goes out at once, what follows at the rate", () => {
  const { clock, next } = bucket();
  assert.deepEqual([next(), next(), next(), next()], [0, 0, 0, 0]);
  assert.deepEqual([next(), next()], [125, 250]);
  clock.time += 10_000;
  assert.deepEqual([next(), next(), next(), next(), next()], [0, 0, 0, 0, 125]);
});

test("a clock that is set back makes nothing wait that did not wait before", () => {
  const { clock, next } = bucket();
  for (let frames = 0; frames < 4; frames += 1) next();
  clock.time -= 3_600_000;
  assert.deepEqual([next(), next()], [125, 250], "nor is the bucket full again");
  clock.time += 10_000;
  assert.equal(next(), 0);
});

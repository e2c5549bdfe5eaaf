import assert from "node:assert/strict";
import test from "node:test";
import { firstMark, follow, judge } from "../src/timeline.js";
import { eachSeed } from "./clock.mjs";

const record = (seq, hole_after) => (hole_after === undefined ? { seq } : { seq, hole_after });

test("the next record is taken, one that was taken is dropped", () => {
  assert.deepEqual(judge(4, record(5)), { kind: "take", discardAbove: null });
  assert.deepEqual(judge(5, record(5)), { kind: "drop" });
  assert.deepEqual(judge(9, record(5)), { kind: "drop" });
});

test("a gap is paged first", () => {
  assert.deepEqual(judge(4, record(8)), { kind: "page", from: 5, to: 7 });
});

test("a declared hole is passed over, and what lies below it is paged", () => {
  assert.deepEqual(judge(8, record(1000, 8)), { kind: "take", discardAbove: null });
  assert.deepEqual(judge(6, record(1000, 8)), { kind: "page", from: 7, to: 8 });
  assert.deepEqual(judge(0, record(1000, 0)), { kind: "take", discardAbove: null });
});

test("what is held inside a declared hole is discarded", () => {
  assert.deepEqual(judge(11, record(1000, 8)), { kind: "take", discardAbove: 8 });
});

test("a conversation begins just below the user's membership", () => {
  assert.equal(firstMark({ joined: { seq: 7 } }, 7), 6);
  assert.equal(firstMark({ joined: { seq: 7 } }, 20), 6, "what lies between is paged");
  assert.equal(firstMark({ joined: { seq: 70 } }, 20), 19, "an earlier membership: the inbox begins before it");
});

/** What a reader has taken, by the rule. */
function reader(mark) {
  const seen = [];
  return {
    seen,
    mark: () => mark,
    take(taken, above) {
      if (above !== null) seen.splice(0, seen.length, ...seen.filter((seq) => seq <= above));
      assert.ok(taken.seq > mark);
      mark = taken.seq;
      seen.push(taken.seq);
    },
    reach: (seq) => (mark = seq),
  };
}

test("a gap that history fills in several pages, with a time without membership in it", async () => {
  const readable = [5, 6, 7, 20, 21, 22, 23];
  const asked = [];
  const history = async (from, to) => {
    asked.push([from, to]);
    const inside = readable.filter((seq) => seq >= from && seq <= to);
    return { records: inside.slice(0, 2).map((seq) => record(seq)), more: inside.length > 2 };
  };
  const here = reader(4);
  await follow(here, record(24), history);
  assert.deepEqual(here.seen, [5, 6, 7, 20, 21, 22, 23, 24]);
  assert.deepEqual(asked, [[5, 23], [7, 23], [21, 23], [23, 23]]);
});

test("a page that is empty and not the last is no answer", async () => {
  const history = async () => ({ records: [], more: true });
  await assert.rejects(follow(reader(4), record(8), history), { code: "internal" });
});

/** A conversation as the server has it: epochs with holes between them, and a user who comes and goes. */
function conversation(chance) {
  const records = [];
  let seq = 0;
  for (let epoch = chance.between(1, 3); epoch > 0; epoch -= 1) {
    const hole = records.length > 0 || chance.happens(0.2) ? { hole_after: seq } : {};
    if ("hole_after" in hole) seq += chance.between(2, 1000);
    for (let count = chance.between(1, 30); count > 0; count -= 1) {
      seq += 1;
      records.push({ seq, ...(count > 0 && records[records.length - 1]?.seq !== seq - 1 ? hole : {}) });
    }
  }
  const intervals = [];
  for (let index = 0; index < records.length; ) {
    const joined = chance.between(index, Math.min(records.length - 1, index + 5));
    const left = chance.happens(0.7) ? chance.between(joined, records.length - 1) : records.length - 1;
    intervals.push([records[joined].seq, records[left].seq]);
    index = left + 2;
  }
  const mine = ({ seq }) => intervals.some(([joined, left]) => seq >= joined && seq <= left);
  return { readable: records.filter(mine), joined: intervals[0][0] };
}

test("whatever is lost, doubled or repeated, a reader sees every record once and in order", async () => {
  await eachSeed(2000, async (chance) => {
    const { readable, joined } = conversation(chance);
    const history = async (from, to) => {
      const max = chance.between(1, 7);
      const inside = readable.filter(({ seq }) => seq >= from && seq <= to);
      return { records: inside.slice(0, max), more: inside.length > max };
    };
    const here = reader(joined - 1);
    for (let next = 0; next < readable.length; next += 1) {
      // First appearances come in order, but the last; some never come.
      const last = next === readable.length - 1;
      if (last || !chance.happens(0.2)) await follow(here, readable[next], history);
      // A replay, or a zombie worker.
      while (chance.happens(0.3)) await follow(here, readable[chance.between(0, next)], history);
    }
    assert.deepEqual(here.seen, readable.map(({ seq }) => seq));
  });
});

test("what a server lost is discarded, and what followed is seen once and in order", async () => {
  await eachSeed(500, async (chance) => {
    // All of 1…n were acked and seen; the server came back with those up to `kept` only, in a new epoch.
    const [seen, kept] = [chance.between(1, 30), chance.between(0, 29)].sort((a, b) => b - a);
    const first = kept + 2 ** 20;
    const after = Array.from({ length: chance.between(1, 10) }, (_, index) =>
      index === 0 ? record(first, kept) : record(first + index),
    );
    const store = [...Array.from({ length: kept }, (_, index) => record(index + 1)), ...after];
    const history = async (from, to) => ({ records: store.filter(({ seq }) => seq >= from && seq <= to), more: false });
    const here = reader(0);
    for (let seq = 1; seq <= seen; seq += 1) await follow(here, record(seq), history);
    const lost = chance.happens(0.5) ? 0 : chance.between(0, after.length - 1);
    for (const next of after.slice(lost)) await follow(here, next, history);
    assert.deepEqual(here.seen, store.map(({ seq }) => seq));
  });
});

/**
 * The one rule by which records come once and in order, whatever is lost, doubled or delayed on the way.
 *
 * A timeline's *mark* is the last sequence id that was taken in order. What is not above it was taken already. What leaves a gap
 * above it waits until the gap is paged from history, unless the record itself declares that nothing is there.
 *
 * A gap from a time without membership needs no rule of its own: its history is an empty page.
 *
 * @typedef {import("./wire.js").WireRecord} WireRecord
 *
 * @typedef {{ kind: "drop" }
 *   | { kind: "take", discardAbove: number | null }
 *   | { kind: "page", from: number, to: number }} Verdict
 *   `take`: it is next; what is held above `discardAbove` and below the record does not exist any more.
 *   `page`: take these sequence ids (both included) from history first, then ask again.
 */

import { ChatError } from "./error.js";

/**
 * What to do with a record.
 *
 * @param {number} mark
 * @param {WireRecord} record
 * @returns {Verdict}
 */
export function judge(mark, record) {
  if (record.seq <= mark) return { kind: "drop" };
  const declared = record.hole_after ?? null;
  const last = declared ?? record.seq - 1;
  if (mark < last) return { kind: "page", from: mark + 1, to: last };
  return { kind: "take", discardAbove: declared !== null && declared < mark ? declared : null };
}

/**
 * Takes a record, after whatever must come before it.
 *
 * @param {{
 *   mark: () => number,
 *   take: (record: WireRecord, discardAbove: number | null) => void,
 *   reach: (seq: number) => void,
 * }} timeline `take` moves the mark to the record; `reach` moves it over places where nothing is
 * @param {WireRecord} record
 * @param {(from: number, to: number) => Promise<{ records: WireRecord[], more: boolean }>} history a page from the lower end
 */
export async function follow(timeline, record, history) {
  for (;;) {
    const verdict = judge(timeline.mark(), record);
    if (verdict.kind === "drop") return;
    if (verdict.kind === "take") return timeline.take(record, verdict.discardAbove);
    await page(timeline, verdict.from, verdict.to, history);
  }
}

/**
 * Takes one page of a range whose lower end is next; whether there is more of it.
 *
 * @param {Parameters<typeof follow>[0]} timeline
 * @param {number} from
 * @param {number} to
 * @param {Parameters<typeof follow>[2]} history
 */
export async function page(timeline, from, to, history) {
  const { records, more } = await history(from, to);
  if (more && records.length === 0) throw new ChatError("internal", "the server sent an empty page that is not the last");
  for (const record of records) {
    // History has no gaps but those that are none: holes, and times without membership. So its records are next as they come.
    if (record.seq > timeline.mark()) timeline.take(record, discarded(timeline.mark(), record));
  }
  if (!more && timeline.mark() < to) timeline.reach(to);
  return more;
}

function discarded(/** @type {number} */ mark, /** @type {WireRecord} */ { hole_after: above }) {
  return above !== undefined && above < mark ? above : null;
}

/**
 * The mark of a conversation that the client meets by a record at `seq`: just below where its membership begins.
 *
 * Earlier memberships are not told. A record of one of them comes from the inbox, which begins before it: nothing is missing.
 *
 * @param {{ joined: import("./wire.js").Mark }} conversation
 * @param {number} seq
 */
export function firstMark({ joined }, seq) {
  return (joined.seq <= seq ? joined.seq : seq) - 1;
}

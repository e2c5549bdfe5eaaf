/** Addresses in texts, as links. */

import { el } from "./dom.js";

/** Only what stands in an address as it is: Chinese text often follows one without a space. */
const ADDRESS = /\bhttps?:\/\/[\w\-.~:/?#[\]@!$&'()*+,;=%]+/gi;
/** What ends a sentence, not an address. */
const END = /[.,;:!?'*]$/;

/**
 * A text in pieces.
 *
 * @param {string} text
 * @returns {(string | Element)[]}
 */
export function withLinks(text) {
  const pieces = [];
  let done = 0;
  for (const { 0: found, index } of text.matchAll(ADDRESS)) {
    const address = trimmed(found);
    if (!opens(address)) continue;
    pieces.push(text.slice(done, index), link(address));
    done = index + address.length;
  }
  return [...pieces, text.slice(done)];
}

/** Without the end of the sentence, or of the brackets, around it. */
function trimmed(found) {
  const closes = found.endsWith(")") && count(found, ")") > count(found, "(");
  const bracket = found.endsWith("]") && count(found, "]") > count(found, "[");
  return END.test(found) || closes || bracket ? trimmed(found.slice(0, -1)) : found;
}

function count(text, sign) {
  return text.split(sign).length - 1;
}

/** A name before an `@` only makes an address look like another one's. */
function opens(address) {
  try {
    const { username, password } = new URL(address);
    return username === "" && password === "";
  } catch {
    return false;
  }
}

function link(address) {
  return el("a", { href: address, target: "_blank", rel: "noopener noreferrer", dir: "ltr" }, address);
}

/** Names that people type: what the server would not take is said here, and which name it is. */

import { words } from "./words.js";

/** The longest name of a user, in bytes of UTF-8: docs/protocol.md, "Limits". */
const NAME_BYTES = 64;
/** So many characters of a name that is too long say which one it is. */
const SHOWN = 12;

/** How long a text is on the wire. */
export const bytes = (text) => new TextEncoder().encode(text).length;

/** The names in a text of names. A name may have spaces inside. */
export function namesIn(text) {
  const names = text.split(/[\n,，、;；]/).map((name) => name.trim());
  return [...new Set(names.filter((name) => name !== ""))];
}

/** In words, with no code of the server. */
const refused = (why) => Object.assign(new Error(why), { refused: true });

/** The name, if it can be a user's. */
export function checked(name) {
  if (bytes(name) > NAME_BYTES) throw refused(words.nameTooLong([...name].slice(0, SHOWN).join(""), NAME_BYTES));
  return name;
}

/** The name, if it can be that of somebody else. */
export function somebodyElse(name, me) {
  if (name === me) throw refused(words.nameYourself);
  return checked(name);
}

/** The screen on which one picks a name. */

import { button, el } from "./dom.js";
import { checked } from "./names.js";
import { lastUser, signIn } from "./session.js";
import { inWords, switchLanguage, words } from "./words.js";

/**
 * Shows it.
 *
 * @param {Element} root
 * @param {{ note?: string, done: (user: string) => void }} options `note`: why one has to sign in again
 */
export function showLogin(root, { note, done }) {
  const field = el("input", {
    id: "name",
    name: "name",
    autocomplete: "username",
    maxLength: 64,
    required: true,
    placeholder: words.namePlaceholder,
    value: lastUser(),
  });
  const problem = el("p", { class: "problem", role: "alert" }, note ?? "");
  const submit = el("button", { class: "primary", type: "submit" }, words.signIn);
  const send = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    problem.textContent = "";
    try {
      done(await signIn(checked(field.value.trim())));
    } catch (error) {
      problem.textContent = reason(error);
    } finally {
      submit.disabled = false;
    }
  };
  const form = el(
    "form",
    { class: "card", onsubmit: send },
    el("img", { src: "/favicon.svg", alt: "", width: 48, height: 48 }),
    el("h1", {}, words.title),
    el("label", { for: "name" }, words.name),
    field,
    problem,
    submit,
    el("p", { class: "hint" }, words.signInHint),
  );
  const language = button(words.otherLanguage, { class: "plain", onclick: switchLanguage });
  root.replaceChildren(el("main", { class: "login" }, form, language));
  field.focus();
  field.select();
}

/** Our words or the server's own where the name is refused; a browser's are no help. */
function reason(error) {
  if (error.refused) return error.message;
  if (error.status === 400 || error.status === 422) return inWords({ code: "invalid" });
  return error.status ? error.message : words.noServer;
}

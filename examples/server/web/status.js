/** How the connection stands, in words, with what one can do about it. */

import { button, el } from "./dom.js";
import { inWords, words } from "./words.js";

/**
 * Keeps an element up to date that says in a word how it stands.
 *
 * @param {Element} place
 * @param {import("/client/src/index.js").ChatClient} chat
 * @returns {() => void} ends it
 */
export function showStatus(place, chat) {
  return onChange(chat, () => {
    const state = stateOf(chat);
    const { online, updating, connecting, notConnected } = words;
    place.className = `status ${state}`;
    place.replaceChildren(text({ online, updating, connecting }[state] ?? notConnected));
  });
}

/**
 * Keeps a bar up to date that says what is wrong, and what one can do about it.
 *
 * @param {Element} place
 * @param {import("/client/src/index.js").ChatClient} chat
 * @returns {() => void} ends it
 */
export function showBanner(place, chat) {
  let timer;
  const show = () => {
    clearTimeout(timer);
    const { state, reason, retryAt } = chat.status;
    place.className = `status ${stateOf(chat)} banner`;
    if (state === "waiting") {
      const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
      // The button must not be made anew each second: one may be about to press it.
      const again = place.querySelector("button") ?? button(words.tryNow, { class: "link", onclick: () => chat.wake() });
      place.replaceChildren(text(words.waiting(seconds)), again);
      if (seconds > 0) timer = setTimeout(show, 1_000);
    } else if (state === "closed" && reason !== "not started" && reason !== "stopped") {
      const here = button(words.useHere, { class: "link", onclick: () => chat.start() });
      place.replaceChildren(text(reason === "kicked" ? words.kicked : closedText(reason)), here);
    } else {
      place.replaceChildren();
    }
  };
  const off = onChange(chat, show);
  return () => {
    clearTimeout(timer);
    off();
  };
}

function onChange(chat, show) {
  show();
  const off = [chat.on("status", show), chat.on("synced", show)];
  return () => off.forEach((one) => one());
}

function stateOf({ status: { state }, synced }) {
  return state === "online" && !synced ? "updating" : state;
}

function text(words) {
  return el("span", {}, words);
}

function closedText(reason) {
  return words.errors[reason] ? inWords({ code: reason }) : words.ended;
}

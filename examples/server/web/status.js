/** How the connection stands, in words, with what one can do about it. */

import { button, el } from "./dom.js";
import { inWords, words } from "./words.js";

/**
 * Keeps an element up to date.
 *
 * @param {Element} place
 * @param {import("/client/src/index.js").ChatClient} chat
 * @param {string} [more] another class of the element
 * @returns {() => void} ends it
 */
export function showStatus(place, chat, more = "") {
  let timer;
  const show = () => {
    clearTimeout(timer);
    const { state, reason, retryAt } = chat.status;
    place.className = `status ${state === "online" && !chat.synced ? "updating" : state} ${more}`;
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
      place.replaceChildren(text(state === "online" ? (chat.synced ? words.online : words.updating) : words.connecting));
    }
  };
  show();
  const off = [chat.on("status", show), chat.on("synced", show)];
  return () => {
    clearTimeout(timer);
    off.forEach((one) => one());
  };
}

function text(words) {
  return el("span", {}, words);
}

function closedText(reason) {
  return words.errors[reason] ? inWords({ code: reason }) : words.ended;
}

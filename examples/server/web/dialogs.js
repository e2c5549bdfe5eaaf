/** Dialogs: a new chat, what there is to know of a group. */

import { avatar, button, el } from "./dom.js";
import { title } from "./format.js";
import { icon } from "./icons.js";
import { checked, namesIn, somebodyElse } from "./names.js";
import { inWords, words } from "./words.js";

/** A dialog that is gone when it is closed. */
function dialog(heading, ...children) {
  const element = el(
    "dialog",
    { "aria-label": heading, onclose: () => element.remove() },
    el("header", { class: "head" }, el("h2", {}, heading), button(words.close, { class: "icon", onclick: () => element.close() }, icon("close"))),
    ...children,
  );
  document.body.append(element);
  element.showModal();
  return element;
}

/** A form that says why something did not work, and does nothing twice. */
function form(submitLabel, fields, run) {
  const problem = el("p", { class: "problem", role: "alert" });
  const submit = el("button", { class: "primary", type: "submit" }, submitLabel);
  const onsubmit = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    problem.textContent = "";
    try {
      await run();
    } catch (error) {
      problem.textContent = inWords(error);
    } finally {
      submit.disabled = false;
    }
  };
  fields[fields.length - 1].row.append(submit);
  return el("form", { onsubmit }, ...fields.map((one) => one.element), problem);
}

let fieldCount = 0;

function field(label, props = {}, hint) {
  const id = `field-${(fieldCount += 1)}`;
  const input = el("input", { id, autocomplete: "off", ...props });
  const row = el("div", { class: "row" }, input);
  const element = el("div", { class: "field" }, el("label", { for: id }, label), row, hint ? el("p", { class: "hint" }, hint) : null);
  return { input, row, element, value: () => input.value.trim() };
}

/**
 * Writes to somebody, makes a group, or joins one.
 *
 * @param {import("/client/src/index.js").ChatClient} chat
 * @param {(id: string) => void} open
 */
export function newChat(chat, open) {
  const done = ({ id }) => (element.close(), open(id));
  const person = field(words.personName, { required: true, maxLength: 64, name: "person" }, words.personHint);
  const name = field(words.groupName, { required: true, maxLength: 80, name: "group-name" });
  const members = field(words.groupMembers, { name: "group-members" }, words.groupMembersHint);
  const group = field(words.groupId, { required: true, maxLength: 64, name: "group-id" }, words.groupIdHint);
  const others = () => namesIn(members.value()).filter((one) => one !== chat.user);
  const write = () => chat.openSingle(somebodyElse(person.value(), chat.user));
  const create = () => chat.createGroup({ name: name.value(), members: others().map(checked) });
  const section = (heading, ...content) => el("section", {}, el("h3", {}, heading), ...content);
  const element = dialog(
    words.newChat,
    section(words.person, form(words.open, [person], async () => done(await write()))),
    section(words.group, form(words.create, [name, members], async () => done(await create()))),
    section(words.joinGroup, form(words.join, [group], async () => done(await chat.join(group.value())))),
  );
  person.input.focus();
}

/**
 * Who is in a group, its id, inviting, leaving.
 *
 * @param {import("/client/src/index.js").ChatClient} chat
 * @param {string} id
 */
export function groupInfo(chat, id) {
  const conversation = chat.conversation(id);
  const left = conversation.left !== undefined;
  const people = el("ul", { class: "people" });
  const more = button(words.more, { class: "plain", hidden: true });
  const problem = el("p", { class: "problem", role: "alert" });
  const names = field(words.inviteNames, { required: true, name: "invite" });
  const invite = async () => {
    await chat.join(id, namesIn(names.value()).map(checked));
    names.input.value = "";
    await load();
  };
  const load = async (after) => {
    if (after === undefined) people.replaceChildren();
    const page = await chat.members(id, { after });
    people.append(...page.members.map(({ user, role }) => person(user, role, chat.user)));
    more.hidden = page.next === undefined;
    more.onclick = () => tell(load(page.next));
  };
  const tell = (loaded) => loaded.catch((error) => (problem.textContent = inWords(error)));
  const leave = async () => {
    if (!confirm(words.leaveSure)) return;
    await chat.leave(id);
    element.close();
  };
  const element = dialog(
    title(conversation),
    el("section", {}, el("h3", {}, words.groupId), copyable(id)),
    left ? el("p", { class: "hint" }, words.left) : el("section", {}, el("h3", {}, words.members), people, more, problem),
    left ? null : el("section", {}, el("h3", {}, words.invite), form(words.invite, [names], invite)),
    left ? null : el("section", {}, button(words.leave, { class: "danger", onclick: () => tell(leave()) })),
  );
  if (!left) tell(load());
}

function person(user, role, me) {
  const rank = role === "member" ? null : el("span", { class: "rank" }, words.roles[role] ?? role);
  return el("li", {}, avatar(user), el("bdi", { class: "name", title: user }, user), user === me ? el("span", { class: "hint" }, words.you) : null, rank);
}

function copyable(text) {
  const copy = async () => {
    await navigator.clipboard?.writeText(text);
    done.textContent = words.copied;
  };
  const done = button(words.copy, { class: "plain", onclick: copy });
  return el("p", { class: "copyable" }, el("code", {}, text), navigator.clipboard ? done : null);
}

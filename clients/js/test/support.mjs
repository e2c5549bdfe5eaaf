/** What several tests share. */

import { ChatClient } from "../src/client.js";

/** A client of the fake server, with everything that it said. */
export function client(server, clock, user, more = {}) {
  const options = { url: "ws://fake", token: `token-${user}`, user, device: `${user}-1`, openSocket: server.openSocket, env: clock };
  const chat = new ChatClient({ ...options, ...more });
  const heard = { messages: [], statuses: [], resets: [], discards: [], unread: [], removed: [], failed: [] };
  chat.on("message", ({ record }) => heard.messages.push(record));
  chat.on("status", (status) => heard.statuses.push(status));
  chat.on("reset", ({ conversation }) => heard.resets.push(conversation));
  chat.on("discard", (event) => heard.discards.push(event));
  chat.on("unread", ({ total }) => heard.unread.push(total));
  chat.on("removed", ({ conversation }) => heard.removed.push(conversation.id));
  chat.on("failed", ({ error }) => heard.failed.push(error));
  return { chat, heard, said: (id) => heard.messages.filter((one) => one.conversation === id).map(({ content }) => content) };
}

/** What applications use. */
export { ChatClient } from "./client.js";
export { ChatError } from "./error.js";
export { memoryStorage } from "./storage.js";
export { MessageWindow } from "./window.js";
export { fillRandom, idSource } from "./ids.js";
export { unread } from "./unread.js";

/**
 * Who this window is: a user, and a device of its own. Two windows of one user are two devices, so everything lies in
 * `sessionStorage`, which a window keeps over a reload and shares with no other.
 */

const USER = "im.user";
const TOKEN = "im.token";
const DEVICE = "im.device";
/** In `localStorage`: what to propose in the next window. */
const LAST = "im.last-user";
/** Milliseconds before its end at which a token is not used any more. */
const MARGIN = 60_000;

/** The device that this window has taken; it can be taken only once. */
let held = null;

/** The user that signed in here, if one did. */
export function signedIn() {
  return sessionStorage.getItem(USER);
}

/** The name that was signed in with last, in whichever window. */
export function lastUser() {
  return localStorage.getItem(LAST) ?? "";
}

/**
 * Signs in.
 *
 * @param {string} user
 */
export async function signIn(user) {
  const granted = await login(user);
  sessionStorage.setItem(USER, granted.user);
  localStorage.setItem(LAST, granted.user);
  return granted.user;
}

/** The sign-in is not valid any more; the device stays, and with it what its client keeps for the user. */
export function expire() {
  [USER, TOKEN].forEach((key) => sessionStorage.removeItem(key));
}

/** Forgets who signed in here. */
export function signOut() {
  [USER, TOKEN, DEVICE].forEach((key) => sessionStorage.removeItem(key));
}

/** A token for the user; a fresh one where the last one has ended. */
export async function token(user, again) {
  const kept = JSON.parse(sessionStorage.getItem(TOKEN) ?? "null");
  const good = !again && kept?.user === user && kept.expires_at > Date.now() + MARGIN;
  return (good ? kept : await login(user)).token;
}

async function login(user) {
  const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ user }) };
  const response = await fetch("/dev/login", request);
  if (!response.ok) throw Object.assign(new Error((await response.text()) || response.statusText), { status: response.status });
  const granted = await response.json();
  sessionStorage.setItem(TOKEN, JSON.stringify(granted));
  return granted;
}

/**
 * The window's device. A window that was duplicated has a copy of the other one's storage, and must not push it out: it takes a
 * device of its own.
 *
 * @returns {Promise<string>}
 */
export async function device() {
  const kept = sessionStorage.getItem(DEVICE);
  if (kept && (kept === held || (await hold(kept)))) return (held = kept);
  const fresh = `web-${[...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  forgetKept();
  sessionStorage.setItem(DEVICE, fresh);
  await hold(fresh);
  return (held = fresh);
}

/** Takes a device for as long as the window lives; false: another window has it. */
function hold(name) {
  // Only there on https and on this machine; elsewhere windows are not duplicated often.
  if (!navigator.locks) return true;
  return new Promise((resolve) => {
    navigator.locks.request(`im.device.${name}`, { ifAvailable: true }, (lock) => {
      resolve(lock !== null);
      return lock && new Promise(() => {});
    });
  });
}

/** What the client of another device kept in the copied storage. */
function forgetKept() {
  Object.keys(sessionStorage)
    .filter((key) => key.startsWith("im:"))
    .forEach((key) => sessionStorage.removeItem(key));
}

/**
 * WeChat mini-programs (微信小程序): their sockets and their storage in the shapes that the client takes.
 *
 *     const chat = new ChatClient({ url, token, user, device, ...miniprogram(wx) });
 */

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

/**
 * @param {any} wx the global of the mini-program, or one of a platform that copies it (uni, tt, swan …)
 */
export function miniprogram(wx) {
  return { openSocket: socketsOf(wx), storage: storageOf(wx) };
}

/**
 * `wx.connectSocket` as the client's `openSocket`.
 *
 * @param {any} wx
 */
export function socketsOf(wx) {
  return (/** @type {string} */ url, /** @type {string[]} */ protocols) => {
    const socket = {
      readyState: CONNECTING,
      onopen: /** @type {any} */ (null),
      onmessage: /** @type {any} */ (null),
      onclose: /** @type {any} */ (null),
      onerror: /** @type {any} */ (null),
      send: (/** @type {string} */ data) => task.send({ data, fail: lost }),
      close(code = 1000, reason = "") {
        if (socket.readyState >= CLOSING) return;
        socket.readyState = CLOSING;
        task.close({ code, reason, fail: lost });
      },
    };
    const ended = (/** @type {{ code: number, reason: string }} */ event) => {
      if (socket.readyState === CLOSED) return;
      socket.readyState = CLOSED;
      socket.onclose?.(event);
    };
    // A task that fails to connect, to send or to close reports no close afterwards on every version of the platform.
    const lost = (/** @type {any} */ error) => ended({ code: 1006, reason: error?.errMsg ?? "" });
    const task = wx.connectSocket({ url, protocols, fail: lost });
    task.onOpen(() => {
      socket.readyState = OPEN;
      socket.onopen?.({});
    });
    task.onMessage((/** @type {any} */ { data }) => socket.onmessage?.({ data }));
    task.onClose((/** @type {any} */ { code, reason }) => ended({ code: code ?? 1006, reason: reason ?? "" }));
    task.onError(lost);
    return socket;
  };
}

/**
 * The storage of a mini-program as the client's `storage`.
 *
 * @param {any} wx
 * @returns {import("../src/storage.js").Storage}
 */
export function storageOf(wx) {
  return {
    // A key that is not there reads as the empty text.
    getItem: (key) => wx.getStorageSync(key) || null,
    setItem: (key, value) => wx.setStorageSync(key, value),
    removeItem: (key) => wx.removeStorageSync(key),
  };
}

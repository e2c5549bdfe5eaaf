import assert from "node:assert/strict";
import test from "node:test";
import { miniprogram } from "../adapters/miniprogram.js";
import { fakeClock, settle } from "./clock.mjs";
import { FakeServer } from "./fake-server.mjs";
import { client } from "./support.mjs";

/** As much of `wx` as is used, on the fake server. */
function platform(server) {
  const kept = new Map();
  const tasks = [];
  return {
    tasks,
    kept,
    getStorageSync: (key) => kept.get(key) ?? "",
    setStorageSync: (key, value) => void kept.set(key, value),
    removeStorageSync: (key) => void kept.delete(key),
    connectSocket({ url, protocols }) {
      const socket = server.openSocket(url, protocols);
      const task = {
        url,
        protocols,
        onOpen: (run) => (socket.onopen = run),
        onMessage: (run) => (socket.onmessage = run),
        onClose: (run) => (socket.onclose = run),
        onError: (run) => (task.fail = run),
        send: ({ data, fail }) => (task.broken ? fail({ errMsg: "sendSocketMessage:fail" }) : socket.send(data)),
        close: ({ code }) => socket.close(code),
      };
      tasks.push(task);
      return task;
    },
  };
}

test("a client runs on a mini-program's sockets and storage", async () => {
  const clock = fakeClock();
  const server = new FakeServer(clock);
  server.group("g", ["bob", "alice"]);
  const wx = platform(server);
  const first = client(server, clock, "alice", miniprogram(wx));
  await first.chat.start();
  await clock.advance(0);
  assert.deepEqual([wx.tasks[0].url, wx.tasks[0].protocols], ["ws://fake", ["im.v1.json"]]);
  await first.chat.send("g", "你好");
  await clock.advance(100);
  assert.deepEqual(first.said("g"), ["你好"]);
  await first.chat.stop();
  assert.ok([...wx.kept.keys()].some((key) => key.endsWith(":base")));
  server.append("g", { from: "bob", content: "later" });
  const second = client(server, clock, "alice", miniprogram(wx));
  await second.chat.start();
  await clock.advance(0);
  assert.deepEqual(second.said("g"), ["later"]);
});

test("a socket that fails without a close is closed all the same, once", async () => {
  const wx = platform(new FakeServer(fakeClock()));
  const { openSocket } = miniprogram(wx);
  const socket = openSocket("ws://fake", []);
  const closes = [];
  socket.onclose = ({ code }) => closes.push(code);
  await settle();
  assert.equal(socket.readyState, 1);
  wx.tasks[0].broken = true;
  socket.send("{}");
  wx.tasks[0].fail({ errMsg: "network" });
  assert.deepEqual([closes, socket.readyState], [[1006], 3]);
});

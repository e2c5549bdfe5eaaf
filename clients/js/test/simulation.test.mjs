/**
 * The whole client against a faulty server, by seed: connections that break, answers and signals that are lost, doubled or late,
 * entries that never came into the inbox or come twice, pages closed and opened again. Once it is quiet, every client has seen
 * exactly what it may read, once and in order, counts what the server counts, and everything that was sent is there once.
 */

import assert from "node:assert/strict";
import test from "node:test";
import { memoryStorage } from "../src/storage.js";
import { chance as chanceOf, eachSeed, fakeClock } from "./clock.mjs";
import { FakeServer } from "./fake-server.mjs";
import { client } from "./support.mjs";

const USERS = ["alice", "bob", "carol"];
const SEEDS = 150;

class World {
  constructor(chance, seed) {
    this.chance = chance;
    const luck = chanceOf(seed + 1_000_000);
    this.clock = fakeClock({ random: luck.number });
    this.server = new FakeServer(this.clock, { page: 5, heartbeat: 20_000, readMarks: chance.pick(["per_user", "per_device"]) });
    this.devices = USERS.flatMap((user) => [1, 2].map((number) => ({ user, device: `${user}-${number}`, storage: memoryStorage(), seen: [] })));
    this.sent = 0;
  }

  async open(device) {
    const { user, storage } = device;
    device.here = client(this.server, this.clock, user, { device: device.device, storage });
    device.here.chat.on("message", ({ record }) => device.seen.push(record));
    await device.here.chat.start();
  }

  /** From now on things go wrong, or not any more. */
  faults(on) {
    const { chance, server } = this;
    const deliver = FakeServer.prototype.deliver;
    server.signals = () => !on || !chance.happens(0.3);
    server.latency = () => (on && chance.happens(0.5) ? chance.between(0, 800) : 0);
    server.intercept = (op, body, session) => {
      if (!on || op === "hello" || !chance.happens(0.1)) return undefined;
      return chance.pick([
        () => "ignore",
        () => (session.serve(op, body), "ignore"),
        () => ({ error: { code: chance.pick(["overloaded", "unavailable", "timeout_unknown"]), message: "", retry_after_ms: 300 } }),
        () => (session.ended(1006), "ignore"),
      ])();
    };
    server.deliver = (user, record) => {
      // The fan-out of a record is lost, or done twice. Not of one that takes a member out: nothing would ever show the gap.
      if (!on || record.kind === "members" || !chance.happens(0.1)) deliver.call(server, user, record);
      if (on && chance.happens(0.1)) deliver.call(server, user, record);
    };
  }

  async step() {
    const { chance, server } = this;
    const device = chance.pick(this.devices);
    const id = chance.pick(["small", "other", "big"]);
    const { chat } = device.here;
    const member = (user) => server.spans(server.user(user), id).slice(-1).some(({ left }) => !left);
    switch (chance.between(0, 9)) {
      case 0:
        return chance.pick([...server.sessions, null])?.ended(1006);
      case 1:
        await chat.stop();
        return this.open(device);
      case 2:
        return chat.markRead(id);
      case 3: {
        const user = chance.pick(["bob", "carol"]);
        const content = JSON.stringify(member(user) ? { leave: [user] } : { join: [[user, "member"]] });
        return server.append(id, { from: "alice", kind: "members", type: "system", content });
      }
      default:
        if (member(device.user) && chat.conversation(id) && !chat.conversation(id).left) chat.send(id, `${(this.sent += 1)}`);
    }
    return undefined;
  }

  /** After the faults: one more record in each conversation shows what was lost, and then everything is quiet. */
  async quiet() {
    this.faults(false);
    for (const device of this.devices) if (device.here.chat.status.state === "closed") await this.open(device);
    await this.clock.advance(120_000);
    for (const id of this.server.conversations.keys()) this.server.append(id, { from: "alice", content: `end of ${id}` });
    await this.clock.advance(120_000);
  }

  check() {
    for (const { user, device, seen, here } of this.devices) {
      for (const id of this.server.idsOf(this.server.user(user))) {
        const readable = this.server.readable(this.server.user(user), id).map(({ seq }) => seq);
        const taken = seen.filter((record) => record.conversation === id).map(({ seq }) => seq);
        assert.deepEqual(taken, readable, `${device} in ${id}`);
        if (this.server.readMarks === "per_user") {
          assert.equal(here.chat.conversation(id).unread, this.server.view(this.server.user(user), id).unread, `unread of ${device} in ${id}`);
        }
      }
      assert.deepEqual([...this.server.conversations.keys()].flatMap((id) => here.chat.outgoing(id)), [], device);
    }
    const contents = [...this.server.conversations.values()].flatMap(({ records }) => records.filter(({ kind }) => kind === "message"));
    const numbers = contents.map(({ content }) => content).filter((content) => /^\d+$/.test(content));
    assert.equal(new Set(numbers).size, numbers.length, "a message is stored twice");
    const refused = this.devices.reduce((sum, { refused = 0 }) => sum + refused, 0);
    assert.equal(numbers.length + refused, this.sent, "a message is lost");
  }
}

test("clients of a faulty server see everything once and in order", async () => {
  await eachSeed(SEEDS, async (chance, seed) => {
    const world = new World(chance, seed);
    for (const device of world.devices) await world.open(device);
    await world.clock.advance(0);
    for (const id of ["small", "other", "big"]) world.server.group(id, USERS, { large: id === "big" });
    await world.clock.advance(0);
    world.faults(true);
    for (let steps = chance.between(20, 80); steps > 0; steps -= 1) {
      await world.step();
      await world.clock.advance(chance.between(0, 3_000));
    }
    await world.quiet();
    // Who was put out while a message was on its way is refused, and told.
    for (const device of world.devices) {
      const refused = ["small", "other", "big"].flatMap((id) => device.here.chat.outgoing(id)).filter(({ state }) => state === "refused");
      refused.forEach(({ id }) => device.here.chat.discard(id));
      device.refused = refused.length;
    }
    world.check();
  });
});

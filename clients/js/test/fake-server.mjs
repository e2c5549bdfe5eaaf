/**
 * A server in memory for the client's tests: the protocol's behaviour without sockets, storage or limits, and with faults on
 * demand.
 */

const ok = (value) => ({ ok: value });
const refuse = (code, more = {}) => ({ error: { code, message: code, ...more } });
const mark = ({ seq, ordinal }) => ({ seq, ordinal });
const NOWHERE = { seq: 0, ordinal: 0 };

export class FakeServer {
  /** @param {import("../src/env.js").Env} clock */
  constructor(clock, { heartbeat = 30_000, readMarks = "per_user", page = 200, limits = {} } = {}) {
    Object.assign(this, { clock, heartbeat, readMarks, page });
    this.limits = { page, frame_bytes: 131_072, frames_per_second: 10_000, frames_burst: 10_000, ...limits };
    this.conversations = new Map();
    this.users = new Map();
    this.sessions = [];
    this.up = true;
    this.count = 0;
    /** Everything that was asked, as [user, op, body]. */
    this.asked = [];
    /** Called before a request is served: what it returns is the answer; `"ignore"`: there is none. */
    this.intercept = () => undefined;
    /** Whether a signal is sent. */
    this.signals = () => true;
    /** The delay of the next frame in either direction, in milliseconds. */
    this.latency = () => 0;
  }

  /** What the client takes as `openSocket`. */
  openSocket = () => {
    const session = new Session(this);
    this.later(() => (this.up ? session.opened() : session.ended(1006)));
    return session.socket;
  };

  later(run) {
    const delay = this.latency();
    if (delay === 0) queueMicrotask(run);
    else this.clock.setTimeout(run, delay);
  }

  user(name) {
    if (!this.users.has(name)) {
      this.users.set(name, { name, inbox: [], trimmed: 0, version: 0, changed: new Map(), reads: new Map(), settings: new Map() });
    }
    return this.users.get(name);
  }

  sessionsOf(name) {
    return this.sessions.filter((session) => session.user?.name === name);
  }

  /** Ends every connection, as a killed process does. */
  kill() {
    this.up = false;
    for (const session of [...this.sessions]) session.ended(1006);
  }

  group(id, members, { large = false, name } = {}) {
    this.conversations.set(id, { id, kind: "GROUP", name, large, created_at: this.clock.now(), records: [], members: new Map() });
    const join = members.map((user) => [user, "member"]);
    return this.append(id, { from: members[0], kind: "members", type: "system", content: JSON.stringify({ join }) });
  }

  /** Appends a record, applies it, delivers it. */
  append(id, { from, kind = "message", type = "text", content, client_msg_id = `auto-${(this.count += 1)}`, hole }) {
    const conversation = this.conversations.get(id);
    const last = conversation.records[conversation.records.length - 1] ?? NOWHERE;
    const seq = hole ? last.seq + hole : last.seq + 1;
    const record = {
      conversation: id,
      seq,
      ordinal: last.ordinal + (kind === "message" ? 1 : 0),
      created_at: this.clock.now(),
      from,
      client_msg_id,
      kind,
      type,
      content,
      ...(hole ? { hole_after: last.seq } : {}),
    };
    conversation.records.push(record);
    const before = [...conversation.members].filter(([, spans]) => !spans[spans.length - 1].left).map(([user]) => user);
    if (kind === "members") this.#change(conversation, record, last.ordinal);
    if (kind === "message" && this.readMarks === "per_user") this.user(from).reads.set(id, mark(record));
    const now = [...conversation.members].filter(([, spans]) => !spans[spans.length - 1].left).map(([user]) => user);
    const audience = [...new Set([...before, ...now])];
    if (conversation.large) this.#heads(conversation, audience, record);
    else for (const user of audience) this.deliver(user, record);
    return record;
  }

  #change(conversation, record, before) {
    const { join = [], leave = [] } = JSON.parse(record.content);
    for (const [user] of join) {
      const spans = conversation.members.get(user) ?? [];
      if (spans.length === 0 || spans[spans.length - 1].left) spans.push({ joined: { seq: record.seq, ordinal: before } });
      conversation.members.set(user, spans);
    }
    for (const user of leave) {
      const spans = conversation.members.get(user) ?? [];
      if (spans.length > 0) spans[spans.length - 1].left ??= mark(record);
    }
    for (const user of [...join.map(([user]) => user), ...leave]) this.raise(user, conversation.id);
  }

  #heads(conversation, audience, record) {
    for (const user of audience) {
      for (const session of this.sessionsOf(user)) {
        if (this.signals()) session.event({ ev: "heads", heads: [{ conversation: conversation.id, ...mark(record) }] });
      }
    }
  }

  /** Puts a record into a user's inbox: once more, if it is there already. */
  deliver(name, record) {
    const user = this.user(name);
    const previous = this.end(user);
    const entry = { cursor: `${name}/${user.inbox.length + 1}`, record };
    user.inbox.push(entry);
    for (const session of this.sessionsOf(name)) if (this.signals()) session.entry(previous, entry);
  }

  end(user) {
    return `${user.name}/${user.inbox.length}`;
  }

  raise(name, id) {
    const user = this.user(name);
    user.version += 1;
    user.changed.set(id, user.version);
    for (const session of this.sessionsOf(name)) if (this.signals()) session.event({ ev: "state", version: `v${user.version}` });
  }

  spans(user, id) {
    return this.conversations.get(id)?.members.get(user.name) ?? [];
  }

  readable(user, id) {
    const spans = this.spans(user, id);
    const inside = ({ seq }) => spans.some(({ joined, left }) => seq >= joined.seq && (!left || seq <= left.seq));
    return this.conversations.get(id).records.filter(inside);
  }

  view(user, id) {
    const { kind, name, peers, created_at, large } = this.conversations.get(id);
    const spans = this.spans(user, id);
    const { joined, left } = spans[spans.length - 1];
    const records = this.readable(user, id);
    const last = records[records.length - 1];
    const head = last ? mark(last) : NOWHERE;
    const read = user.reads.get(id) ?? NOWHERE;
    const settings = { hidden: false, undisturbed: false, cleared: NOWHERE, ...user.settings.get(id) };
    const base = Math.max(read.ordinal, joined.ordinal, settings.cleared.ordinal);
    const unread = Math.max(0, Math.min(head.ordinal, left?.ordinal ?? Infinity) - base);
    const peer = peers?.find((one) => one !== user.name);
    return { id, kind, name, peer, created_at, large, role: "member", joined, left, head, last, read, unread, settings };
  }

  /** A user's conversations, by id. */
  idsOf(user) {
    return [...this.conversations.keys()].filter((id) => this.spans(user, id).length > 0).sort();
  }

  vitals(user) {
    const large = this.idsOf(user).filter((id) => {
      const spans = this.spans(user, id);
      return this.conversations.get(id).large && !spans[spans.length - 1].left;
    });
    const heads = large.map((conversation) => ({ conversation, ...this.view(user, conversation).head }));
    return { time: this.clock.now(), end: this.end(user), state: `v${user.version}`, heads };
  }
}

class Session {
  constructor(server) {
    this.server = server;
    this.tail = null;
    this.acks = [];
    this.socket = {
      readyState: 0,
      onopen: null,
      onmessage: null,
      onclose: null,
      onerror: null,
      send: (text) => this.queue("in", () => this.receive(JSON.parse(text))),
      close: (code = 1005) => this.ended(code),
    };
    this.queues = { in: Promise.resolve(), out: Promise.resolve() };
  }

  /** Frames of one direction keep their order, however long each takes. */
  queue(direction, run) {
    this.queues[direction] = this.queues[direction]
      .then(() => new Promise((done) => this.server.later(done)))
      .then(() => this.socket.readyState < 2 && run());
  }

  opened() {
    this.server.sessions.push(this);
    this.socket.readyState = 1;
    this.socket.onopen?.({});
  }

  ended(code, reason = "") {
    if (this.socket.readyState === 3) return;
    this.socket.readyState = 3;
    this.server.sessions = this.server.sessions.filter((one) => one !== this);
    queueMicrotask(() => this.socket.onclose?.({ code, reason }));
  }

  /** Says something, then closes with a code. */
  close(code, event) {
    if (event) this.event(event);
    this.queue("out", () => this.ended(code));
  }

  event(event) {
    this.queue("out", () => this.socket.onmessage?.({ data: JSON.stringify(event) }));
  }

  /** As the engine does: inline where it follows what the client has, else only the end. */
  entry(previous, entry) {
    if (this.tail === previous) {
      this.tail = entry.cursor;
      this.event({ ev: "signal", end: entry.cursor, entries: [entry] });
    } else {
      this.tail = null;
      this.event({ ev: "signal", end: entry.cursor });
    }
  }

  receive({ id, op, ...body }) {
    this.server.asked.push([this.user?.name, op, body]);
    const answer = this.server.intercept(op, body, this) ?? this.serve(op, body);
    if (answer !== "ignore" && answer && id !== undefined) this.event({ re: id, ...answer });
  }

  serve(op, body) {
    const { server, user } = this;
    if (op === "hello") return this.hello(body);
    if (!user) return refuse("hello_first");
    const member = () => server.conversations.has(body.conversation) && server.spans(user, body.conversation).length > 0;
    switch (op) {
      case "ping":
        return ok(server.vitals(user));
      case "ack":
        return void this.acks.push(body.cursor);
      case "pull":
        return this.pull(body);
      case "state":
        return this.state(body);
      case "conversations":
        return this.conversations(body);
      case "history":
        return member() ? this.history(body) : refuse("not_member");
      case "send":
        return member() ? this.send(body) : refuse("not_member");
      case "mark_read":
        return member() ? this.markRead(body) : refuse("not_member");
      case "set":
        user.settings.set(body.conversation, { ...user.settings.get(body.conversation), ...body });
        server.raise(user.name, body.conversation);
        return ok({ state: `v${user.version}` });
      case "open_single":
        return this.openSingle(body.user);
      case "create_group": {
        const id = body.conversation ?? `g-${body.client_msg_id}`;
        const record = server.group(id, [user.name, ...body.members], { name: body.name });
        return ok({ conversation: id, seq: record.seq, created_at: 0, duplicate: false, level: "stored" });
      }
      case "join":
      case "leave": {
        const users = body.users ?? [user.name];
        const change = op === "join" ? { join: users.map((one) => [one, "member"]) } : { leave: users };
        const content = JSON.stringify(change);
        const record = server.append(body.conversation, { from: user.name, kind: "members", type: "system", content });
        return ok({ conversation: body.conversation, seq: record.seq, created_at: 0, duplicate: false, level: "stored" });
      }
      case "members": {
        const members = [...server.conversations.get(body.conversation).members.keys()];
        return ok({ members: members.map((user) => ({ user, role: "member" })) });
      }
      default:
        return refuse("unknown_op");
    }
  }

  hello({ token, cursor, device }) {
    const name = token.replace(/^token-/, "");
    if (!token.startsWith("token-")) {
      this.close(4501);
      return refuse("unauthorized");
    }
    const old = this.server.sessionsOf(name).find((session) => session.device === device);
    old?.close(4500, { ev: "kicked", reason: "replaced" });
    this.user = this.server.user(name);
    this.device = device;
    const resync = !this.served(cursor);
    if (!resync) this.tail = cursor;
    return ok({
      user: name,
      session: "s",
      resync,
      ...this.server.vitals(this.user),
      heartbeat_ms: this.server.heartbeat,
      read_marks: this.server.readMarks,
      limits: this.server.limits,
    });
  }

  /** Where a cursor stands; null: it cannot be served. */
  served(cursor) {
    const [name, at] = (cursor ?? "").split("/");
    const place = Number(at);
    return name === this.user.name && place >= this.user.trimmed && place <= this.user.inbox.length ? { place } : null;
  }

  pull({ after, max = this.server.page }) {
    const from = this.served(after);
    if (!from) return ok({ entries: [], more: false, resync: true });
    const entries = this.user.inbox.slice(from.place, from.place + Math.min(max, this.server.page));
    this.tail = entries[entries.length - 1]?.cursor ?? after;
    return ok({ entries, more: from.place + entries.length < this.user.inbox.length });
  }

  state({ since }) {
    const version = `v${this.user.version}`;
    if (!since?.startsWith("v")) return ok({ version, changes: [], all: true });
    const changed = [...this.user.changed].filter(([, at]) => at > Number(since.slice(1)));
    return ok({ version, changes: changed.map(([id]) => this.server.view(this.user, id)) });
  }

  conversations({ after, max = this.server.page, ids, fresh }) {
    const { server, user } = this;
    if (ids) {
      if (ids.length > server.page) return refuse("too_large");
      const known = ids.filter((id) => server.conversations.has(id) && server.spans(user, id).length > 0);
      return ok({ conversations: known.map((id) => server.view(user, id)) });
    }
    if (fresh) this.tail = server.end(user);
    const all = server.idsOf(user).filter((id) => after === undefined || id > after);
    const page = all.slice(0, Math.min(max, server.page));
    const begin = fresh ? { cursor: server.end(user), state: `v${user.version}` } : {};
    const next = page.length < all.length ? { next: page[page.length - 1] } : {};
    return ok({ conversations: page.map((id) => server.view(user, id)), ...next, ...begin });
  }

  history({ conversation, from = 1, to, max = this.server.page, backward = false }) {
    const { records } = this.server.conversations.get(conversation);
    if (to !== undefined && to > (records[records.length - 1]?.seq ?? 0)) return refuse("behind", { retry_after_ms: 100 });
    const inside = this.server.readable(this.user, conversation).filter(({ seq }) => seq >= from && seq <= (to ?? Infinity));
    const most = Math.min(max, this.server.page);
    const page = backward ? inside.slice(-most) : inside.slice(0, most);
    return ok({ records: page, more: page.length < inside.length });
  }

  send({ conversation, client_msg_id, type, content }) {
    const { records } = this.server.conversations.get(conversation);
    const first = records.find((one) => one.client_msg_id === client_msg_id && one.from === this.user.name);
    if (!first && this.server.spans(this.user, conversation).slice(-1)[0].left) return refuse("not_member");
    if (first && first.content !== content) return refuse("conflict");
    const record = first ?? this.server.append(conversation, { from: this.user.name, type, content, client_msg_id });
    const { seq, created_at } = record;
    return ok({ conversation, seq, created_at, duplicate: first !== undefined, level: "logged" });
  }

  markRead({ conversation, seq }) {
    const { records } = this.server.conversations.get(conversation);
    const at = records.filter((one) => one.seq <= seq).pop() ?? NOWHERE;
    if ((this.user.reads.get(conversation)?.seq ?? 0) < seq) {
      this.user.reads.set(conversation, { seq, ordinal: at.ordinal });
      this.server.raise(this.user.name, conversation);
    }
    return ok({ read: this.user.reads.get(conversation) });
  }

  openSingle(other) {
    const peers = [this.user.name, other].sort();
    const id = `s_${peers.join("+")}`;
    if (!this.server.conversations.has(id)) {
      const members = new Map(peers.map((user) => [user, [{ joined: { seq: 1, ordinal: 0 } }]]));
      const single = { id, kind: "SINGLE", peers, large: false, created_at: this.server.clock.now(), records: [], members };
      this.server.conversations.set(id, single);
      for (const user of peers) this.server.raise(user, id);
    }
    return ok({ conversation: this.server.view(this.user, id) });
  }
}

// The example server as a process of its own, on a free port and new data: what a test may kill.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const PROGRAM = process.env.IM_SERVER_BIN;
/** Milliseconds in which a server must be up. */
const PATIENCE = 30_000;

/**
 * Starts a server; it and its data are gone when the test is over.
 *
 * @param {import("node:test").TestContext} test
 * @param {string[]} [flags] added to ours
 */
export async function startServer(test, flags = []) {
  assert.ok(PROGRAM, "IM_SERVER_BIN names no server: run `cargo xtask test`, or build im-server and set it");
  const data = await mkdtemp(join(tmpdir(), "im-browser-"));
  const server = new Server(data, flags);
  test.after(async () => {
    await server.kill();
    await rm(data, { recursive: true, force: true });
  });
  await server.start("127.0.0.1:0");
  return server;
}

class Server {
  #process = null;

  constructor(data, flags) {
    this.data = data;
    this.flags = flags;
    this.url = "";
  }

  async start(bind) {
    const args = ["--bind", bind, "--data", this.data, "--log", "warn", ...this.flags];
    // Our own variables are none of the server's, which refuses what it does not know.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("IM_")));
    this.#process = spawn(PROGRAM, args, { env, stdio: ["ignore", "pipe", "inherit"] });
    this.url = await address(this.#process);
  }

  /** kill -9. */
  async kill() {
    const running = this.#process;
    if (running === null) return;
    this.#process = null;
    running.kill("SIGKILL");
    if (running.exitCode === null && running.signalCode === null) await once(running, "exit");
  }

  /** Its data are gone. */
  async forget() {
    await rm(this.data, { recursive: true, force: true });
  }

  /** On the same address again, with the data that are there. */
  async restart() {
    await this.start(new URL(this.url).host);
  }
}

/** What the server says to open. */
function address(running) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error("the server does not say where it is")), PATIENCE);
    const end = (outcome) => (clearTimeout(late), outcome);
    running.once("exit", (code) => reject(end(new Error(`the server ended with ${code}`))));
    createInterface({ input: running.stdout }).on("line", (line) => {
      const [, url] = /^open (\S+)/.exec(line) ?? [];
      if (url) resolve(end(url));
    });
  });
}

// The browser of the tests: the machine's own Chromium. playwright-core brings no browser along and downloads none, so the
// tests run where only package registries are reachable. `cargo xtask setup` looks for the same program.

import { chromium } from "playwright-core";

/**
 * Starts a headless browser; the caller closes it.
 *
 * @param {import("playwright-core").LaunchOptions} [options] added to ours
 * @returns {Promise<import("playwright-core").Browser>}
 */
export function launch(options = {}) {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", ...options });
}

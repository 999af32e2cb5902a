// Fetches this very page again, when that is wanted and not too often.
import { show } from "./morph.js";

const LEAST = 1000; // ms between two times
const SHARE = 120; // how many times as long as making a page took the server is left to others: a page costs less than 1 % of a core
const BESIDES = 0.5; // ms that a page costs the server besides making it
const LATER = 2000; // ms until another try when the server cannot answer now

/** Return what a page cost the server, in ms. */
function cost(answer) {
  return Number(/page;dur=([\d.]+)/.exec(answer.headers.get("Server-Timing") ?? "")?.[1] ?? 0) + BESIDES;
}

/** Return this page as it is now. What is gone says so: a 404 is a page too, and what is gone may come back. */
async function fetched(signal) {
  try {
    const url = new URL(location.pathname + location.search, location.origin);
    const headers = { Accept: "text/html", "X-Requested-With": "fetch" }; // no dialog of the browser: this page says who is out
    const answer = await fetch(url, { headers, cache: "no-store", signal });
    const outcome = answer.status === 401 ? "out" : answer.status === 429 || answer.status >= 500 ? "lost" : "shown";
    return { outcome, html: await answer.text(), cost: cost(answer) };
  } catch {
    return { outcome: "lost" };
  }
}

/** Tells `tell` how it went: "shown", "lost", or "out" when nobody is signed in. */
export class Refresher {
  #tell;
  #wanted = false;
  #running = null;
  #timer = 0;
  #next = 0;

  constructor(tell) {
    this.#tell = tell;
  }

  /** Fetch as soon as it may be. */
  want() {
    this.#wanted = true;
    if (!this.#running && !this.#timer) this.#timer = setTimeout(() => this.#run(), this.#next - performance.now());
  }

  /** Fetch at once: a person is waiting. */
  now() {
    this.stop();
    this.#run();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#timer = 0;
    this.#running = null;
    this.#wanted = false;
  }

  async #run() {
    const running = new AbortController();
    const { signal } = running;
    this.#timer = 0;
    this.#running = running;
    this.#wanted = false;
    this.#next = performance.now() + LEAST;
    const page = await fetched(signal);
    if (signal.aborted) return; // somebody searches for something else, or looks elsewhere
    this.#running = null;
    this.#next = Math.max(this.#next, performance.now() + (page.outcome === "lost" ? LATER : SHARE * page.cost));
    if (page.outcome === "shown") show(page.html);
    this.#tell(page.outcome);
    if (this.#wanted) this.want();
  }
}

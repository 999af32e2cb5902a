// Follows the changes for this tab: through the worker that all tabs share, or alone where there is none.
import { Stream } from "./stream.js";

// Not relative to this page: its own address may hold a name and a password, and no request may.
export const CHANGES = new URL("/registry/v1/changes", location.origin);
const { pathname, search } = new URL("./worker.js", import.meta.url);

export class Follower {
  #tell;
  #tab = null;
  #own = null;
  #following = false;

  constructor(tell) {
    this.#tell = tell;
    try {
      const worker = new SharedWorker(new URL(pathname + search, location.origin), { type: "module", name: "luna" });
      worker.onerror = () => this.alone();
      this.#tab = worker.port;
      this.#tab.onmessage = ({ data }) => this.#following && tell(data);
    } catch {
      this.alone();
    }
  }

  /** Use a connection of this tab's own from now on. */
  alone() {
    if (this.#own) return;
    this.#tab?.postMessage("leave");
    this.#tab = null;
    this.#own = new Stream(CHANGES, this.#tell);
    if (this.#following) this.#own.open();
  }

  open() {
    this.#following = true;
    this.#tab?.postMessage("follow");
    this.#own?.open();
  }

  close() {
    this.#following = false;
    this.#tab?.postMessage("leave");
    this.#own?.close();
  }
}

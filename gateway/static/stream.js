// Follows the changes of the registry over one connection, and opens it anew when it is lost.

const FIRST = 500; // ms until it is opened again for the first time
const LONGEST = 15_000; // ms between two tries, however often it has failed

/** Tells `tell` the revision, or that the connection is lost, or that the registry refused it. */
export class Stream {
  #url;
  #tell;
  #source = null;
  #timer = 0;
  #failures = 0;

  constructor(url, tell) {
    this.#url = url;
    this.#tell = tell;
  }

  open() {
    if (!this.#source && !this.#timer) this.#connect();
  }

  close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
    this.#timer = 0;
    this.#failures = 0;
  }

  #connect() {
    const source = new EventSource(this.#url);
    this.#timer = 0;
    this.#source = source;
    source.onmessage = ({ lastEventId }) => {
      this.#failures = 0;
      this.#tell({ state: "live", revision: lastEventId });
    };
    source.addEventListener("bye", () => this.#lost("lost"));
    source.onerror = () => this.#lost(source.readyState === EventSource.CLOSED ? "refused" : "lost");
  }

  #lost(state) {
    this.#source.close();
    this.#source = null;
    const most = Math.min(LONGEST, FIRST * 2 ** this.#failures);
    this.#failures += 1;
    // Not all at the same moment: many pages lose the registry together.
    this.#timer = setTimeout(() => this.#connect(), most * (0.5 + Math.random() / 2));
    this.#tell({ state });
  }
}

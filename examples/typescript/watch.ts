/** Prints the changes of a service, until SIGTERM or Ctrl-C. */

import { connected, CREDENTIALS, main, retry } from "./registry.js";
import type { Instance__Output as Instance } from "./stubs/luna/registry/v1/Instance.js";
import type { WatchServicesResponse__Output as Message } from "./stubs/luna/registry/v1/WatchServicesResponse.js";

const tries = { attempts: 0, interval: 10_000 };
const known = new Map<string, string>(); // what was printed of each instance
let unseen: Set<string> | undefined; // what a snapshot has not named yet, while one is under way
let token = ""; // where to go on

function apply({ reset, events, synced, resume_token }: Message): void {
  if (reset) unseen = new Set(known.keys());
  for (const { type, instance } of events) {
    if (type === "EVENT_TYPE_REMOVED") forget(instance!.instance_id);
    else show(instance!);
  }
  if (synced) {
    for (const id of unseen ?? []) forget(id); // it left while nobody told us
    console.error(unseen ? "in step, from the beginning" : "in step, from where it was");
    unseen = undefined;
  }
  token = resume_token || token;
}

function show({ instance_id, status, url }: Instance): void {
  unseen?.delete(instance_id);
  const shown = `${status.replace("STATUS_", "")} ${url}`;
  if (known.get(instance_id) === shown) return;
  known.set(instance_id, shown);
  console.log(`${instance_id} ${shown}`);
}

function forget(id: string): void {
  unseen?.delete(id);
  if (known.delete(id)) console.log(`${id} gone`);
}

const [, , name] = process.argv;
if (!name) {
  console.error("usage: node --import tsx watch.ts SERVICE");
  process.exit(2);
}
await main((stop) =>
  retry(tries, stop, () =>
    connected(async (registry) => {
      const stream = registry.watchServices({ names: [name], resume_token: token }, CREDENTIALS);
      const cancel = () => stream.cancel();
      stop.addEventListener("abort", cancel);
      unseen = undefined;
      try {
        for await (const message of stream as AsyncIterable<Message>) {
          tries.attempts = 0;
          apply(message);
        }
      } finally {
        stop.removeEventListener("abort", cancel);
      }
    }),
  ),
);

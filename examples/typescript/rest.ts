/** A worker that keeps itself registered with Luna over REST, from its start until SIGTERM or Ctrl-C. Node's own fetch is all it needs. */

import { setTimeout as sleep } from "node:timers/promises";

const env = process.env;
const REGISTRY = env["LUNA_REST_URL"] ?? "http://127.0.0.1:4000";
const USER = `${env["LUNA_USERNAME"] ?? "admin"}:${env["LUNA_PASSWORD"] ?? ""}`;
const ID = env["INSTANCE_ID"] ?? "orders-rest:localhost:8080";
/** REST tells nobody how often to beat: at least three times in the registry's TTL, which is 30 s unless it was changed. */
const INTERVAL = Number(env["HEARTBEAT_SECONDS"] ?? 10) * 1000;

const [name = "", ...address] = ID.split(":");
const INSTANCE = JSON.stringify({
  instanceId: ID,
  name,
  description: "Takes orders",
  version: "1.0.0",
  url: `http://${address.join(":")}/`,
  status: "OK",
  balancerOptions: {},
});

/** No use to try again: the registry would say the same. */
class Refused extends Error {}

/** Sends a request; returns its status when it is one of `expected`. */
async function call(method: string, expected: number[], body?: string): Promise<number> {
  const response = await fetch(`${REGISTRY}/registry/v1/instances/${encodeURIComponent(ID)}`, {
    method,
    headers: { Authorization: `Basic ${Buffer.from(USER).toString("base64")}`, "Content-Type": "application/json" },
    body: body ?? null,
    // Longer than until the next heartbeat is too long; the connection may have died without a word.
    signal: AbortSignal.timeout(INTERVAL),
  });
  const text = await response.text(); // read in any case: that gives the connection back
  if (expected.includes(response.status)) return response.status;
  if (response.status === 401) throw new Refused("the registry refuses the credentials; check LUNA_USERNAME and LUNA_PASSWORD");
  const problem = `the registry answered ${response.status} to ${method} ${ID}: ${text}`;
  throw response.status >= 500 || response.status === 429 ? new Error(problem) : new Refused(problem);
}

async function register(): Promise<void> {
  // 400 when somebody holds the id, most likely this worker's earlier run: take it over. (400 for any other reason returns with the PUT.)
  // In the moment between the two the other may leave: then 404, and the next heartbeat registers.
  if ((await call("POST", [201, 400], INSTANCE)) === 201 || (await call("PUT", [200, 404], INSTANCE)) === 200) {
    console.log(`registered ${ID}`);
  }
}

async function heartbeat(): Promise<void> {
  // 404: the registry was started anew and has forgotten everybody.
  if ((await call("PUT", [200, 404])) === 404) await register();
}

/** Registers, and then beats until it is told to stop. Never gives up on a registry that is away. */
async function keepRegistered(stop: AbortSignal): Promise<void> {
  let work = register;
  let failures = 0;
  while (!stop.aborted) {
    let pause = INTERVAL;
    try {
      await work();
      work = heartbeat;
      failures = 0;
    } catch (error) {
      if (error instanceof Refused) throw error;
      // Full jitter, or else all workers of a registry come back to it at the same moment.
      pause = Math.random() * Math.min(INTERVAL, 500 * 2 ** failures++);
      console.error(`${reason(error)}; next try in ${(pause / 1000).toFixed(1)} s`);
    }
    await sleep(pause, undefined, { signal: stop }).catch(() => {}); // stopping ends the sleep with an error
  }
}

async function deregister(): Promise<void> {
  await call("DELETE", [200, 404]);
  console.log(`deregistered ${ID}`);
}

/** fetch says only "fetch failed"; what happened is in the cause. */
function reason(error: unknown): string {
  return error instanceof Error ? [error.message, error.cause].filter(Boolean).join(": ") : String(error);
}

const stopping = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stopping.abort());
try {
  await keepRegistered(stopping.signal);
  // When the registry is away just now, the lease will run out.
  await deregister().catch((error: unknown) => console.error(`not deregistered: ${reason(error)}`));
} catch (error) {
  console.error(reason(error));
  process.exitCode = 1;
}

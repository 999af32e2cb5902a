/** A worker that keeps itself registered with Luna over REST, from its start until SIGTERM or Ctrl-C. Node's fetch is enough. */

import { setTimeout as sleep } from "node:timers/promises";

const env = process.env;
const REGISTRY = new URL(env["LUNA_REST_URL"] ?? "http://127.0.0.1:4000");
const USER = `${env["LUNA_AUTH_USERNAME"] ?? "admin"}:${env["LUNA_AUTH_PASSWORD"] ?? ""}`;
const ID = env["INSTANCE_ID"] ?? "orders-rest:localhost:8080";
// REST tells nobody how often to beat: three times in the registry's TTL is right, and that is 30 s unless it was changed.
const INTERVAL = Number(env["HEARTBEAT_SECONDS"] ?? 10) * 1000;

const [name = "", ...address] = ID.split(":");
const INSTANCE = JSON.stringify({ instanceId: ID, name, version: "1.0.0", url: `http://${address.join(":")}/`, status: "OK" });

/** The registry would say the same to the next try. */
class RefusedError extends Error {}

/** Sends a request. Two refusals are part of the game and returned by their code; whatever else goes wrong is thrown. */
async function call(method: string, body: string | null = null): Promise<"DONE" | "ALREADY_EXISTS" | "NOT_FOUND"> {
  const response = await fetch(new URL(`/registry/v1/instances/${encodeURIComponent(ID)}`, REGISTRY), {
    method,
    headers: { Authorization: `Basic ${Buffer.from(USER).toString("base64")}`, "Content-Type": "application/json" },
    body,
    signal: AbortSignal.timeout(INTERVAL), // a connection may die without a word
  });
  const text = await response.text(); // also when nobody wants it: the connection is free again only after that
  if (response.ok) return "DONE";
  const answer = `the registry answered ${response.status} to ${method} ${ID}: ${text}`;
  if (response.status >= 500 || response.status === 429) throw new Error(answer);
  if (response.status === 401) throw new RefusedError("wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD");
  if (text.includes('"ALREADY_EXISTS"')) return "ALREADY_EXISTS";
  if (response.status === 404) return "NOT_FOUND";
  throw new RefusedError(answer);
}

async function register(): Promise<void> {
  let outcome = await call("POST", INSTANCE);
  // Most likely this worker's earlier run, which had no time to deregister: its registration is good for us.
  if (outcome === "ALREADY_EXISTS") outcome = await call("PUT", INSTANCE);
  if (outcome !== "DONE") throw new Error(`the registry answered ${outcome} to the registration of ${ID}`);
  console.log(`registered ${ID}`);
}

async function heartbeat(): Promise<void> {
  // A registry that was started anew has forgotten everybody.
  if ((await call("PUT")) === "NOT_FOUND") await register();
}

/** Registers, and then beats until it is told to stop. A registry that is away is waited for. */
async function keepRegistered(stop: AbortSignal): Promise<void> {
  let task = register;
  let failures = 0;
  while (!stop.aborted) {
    let pause = INTERVAL;
    try {
      await task();
      task = heartbeat;
      failures = 0;
    } catch (error) {
      if (error instanceof RefusedError) throw error;
      // Full jitter, or else all workers of a registry would come back to it at the same moment.
      pause = Math.random() * Math.min(INTERVAL, 500 * 2 ** failures++);
      console.error(`${reason(error)}; trying again in ${(pause / 1000).toFixed(1)} s`);
    }
    await sleep(pause, undefined, { signal: stop }).catch(() => {}); // stopping ends the sleep with an error
  }
}

/** fetch says only "fetch failed"; what happened is in the cause. */
function reason(error: unknown): string {
  return error instanceof Error ? [error.message, error.cause].filter(Boolean).join(": ") : String(error);
}

const stopping = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stopping.abort());
try {
  if (!REGISTRY.protocol.startsWith("http")) throw new RefusedError("LUNA_REST_URL must begin with http:// or https://");
  if (!(INTERVAL > 0)) throw new RefusedError("HEARTBEAT_SECONDS must be a number above 0");
  await keepRegistered(stopping.signal);
  await call("DELETE").then(
    (outcome) => console.log(outcome === "DONE" ? `deregistered ${ID}` : `the registry does not know ${ID} any more`),
    (error: unknown) => console.error(`not deregistered, the lease will run out: ${reason(error)}`),
  );
} catch (error) {
  console.error(reason(error));
  process.exitCode = 1;
}

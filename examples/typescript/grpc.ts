/**
 * A worker that keeps itself registered with Luna over gRPC, from its start until SIGTERM or Ctrl-C.
 * What it says of its health is the last line of its standard input: OK or DOWN.
 */

import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import * as grpc from "@grpc/grpc-js";
import { answered, connected, CREDENTIALS, failure, isRefusal, main, retry } from "./registry.js";
import type { Lease__Output as Lease } from "./stubs/luna/registry/v1/Lease.js";
import type { RegisterResponse__Output as RegisterResponse } from "./stubs/luna/registry/v1/RegisterResponse.js";
import type { RegistryClient } from "./stubs/luna/registry/v1/Registry.js";
import type { StreamHeartbeatsRequest } from "./stubs/luna/registry/v1/StreamHeartbeatsRequest.js";
import type { StreamHeartbeatsResponse__Output as Answer } from "./stubs/luna/registry/v1/StreamHeartbeatsResponse.js";

const ID = process.env["INSTANCE_ID"] ?? "orders-grpc:localhost:8080";
const OWNER = randomUUID(); // with it this process gets its own registration back, and no one else's

const tries = { attempts: 0, interval: 10_000 }; // until the registry names another
let health: "STATUS_OK" | "STATUS_DOWN" = "STATUS_OK";
let generation = ""; // of the registration that we hold; empty: none
let epoch = "";
let tell = () => {}; // sends our health, while there is a stream

async function register(registry: RegistryClient): Promise<void> {
  // At our start, whoever has the id is most likely our own earlier run, and is replaced. Later on it would be our successor.
  const instance = { instance_id: ID, version: "1.0.0", status: health };
  const request = { instance, replace: epoch === "", owner: OWNER };
  const answer = await answered<RegisterResponse>((...call) => registry.register(request, ...call));
  generation = answer.instance!.generation;
  learn(answer.lease!);
  console.log(`registered ${ID}`);
}

function learn(lease: Lease): void {
  const { seconds, nanos } = lease.heartbeat_interval!;
  tries.interval = Number(seconds) * 1000 + nanos / 1e6;
  tries.attempts = 0;
  epoch = lease.epoch;
}

/** Beats on one stream until there is a reason to register again, to open another stream, or to stop. */
async function beat(registry: RegistryClient, stop: AbortSignal): Promise<void> {
  const stream = registry.streamHeartbeats(CREDENTIALS);
  stream.on("error", () => {}); // the loop throws its errors; this is for one that comes after the loop and would end the process
  const answerWithin = (ms: number) => setTimeout(() => stream.destroy(new Error("the registry is silent")), ms);
  let silence = answerWithin(tries.interval);
  let next: NodeJS.Timeout | undefined;
  const send = (message: StreamHeartbeatsRequest) => {
    clearTimeout(next);
    stream.write(message);
    next = setTimeout(() => send({ instance_ids: [ID] }), tries.interval);
  };
  const halfClose = () => {
    clearTimeout(next);
    tell = () => {};
    stream.end(); // the registry says its last word, and the loop ends
  };
  stop.addEventListener("abort", halfClose);
  // With our generation, so that this stream renews no other, and our health, which may have changed since we registered.
  tell = () => send({ heartbeats: [{ instance_id: ID, generation, status: health }] });
  try {
    tell();
    for await (const answer of stream as AsyncIterable<Answer>) {
      clearTimeout(silence);
      silence = answerWithin(2 * tries.interval); // one until the next heartbeat, and one for its answer
      if (isOver(answer)) halfClose();
      learn(answer.lease!);
    }
  } finally {
    stop.removeEventListener("abort", halfClose);
    tell = () => {};
    clearTimeout(next);
    clearTimeout(silence);
    stream.cancel();
  }
}

/** Whether a stream has served its time, because of what the registry says. */
function isOver({ failures, lease, reconnect }: Answer): boolean {
  const refusal = failures.find(({ code }) => isRefusal(code));
  if (refusal) throw failure(refusal.code, refusal.message);
  const missing = failures.some(({ code }) => code === grpc.status.NOT_FOUND);
  const forgotten = missing || lease!.epoch !== epoch; // the registry was started anew
  if (forgotten) generation = "";
  return forgotten || reconnect;
}

async function deregister(registry: RegistryClient): Promise<void> {
  try {
    await answered((...call) => registry.deregister({ instance_id: ID, generation }, ...call));
    console.log(`deregistered ${ID}`);
  } catch (error) {
    console.error(`not deregistered, the lease will run out: ${(error as Error).message}`);
  }
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  if (line !== "OK" && line !== "DOWN") return;
  health = `STATUS_${line}`;
  tell();
});
await main(async (stop) => {
  await retry(tries, stop, () =>
    connected(async (registry) => {
      if (!generation) await register(registry);
      if (!stop.aborted) await beat(registry, stop);
    }),
  );
  if (generation) await connected(deregister);
});
lines.close(); // the process would wait for more of them

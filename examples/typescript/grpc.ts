/** A worker that keeps itself registered with Luna over gRPC, from its start until SIGTERM or Ctrl-C. */

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const env = process.env;
const ADDRESS = env["LUNA_GRPC_ADDRESS"] ?? "127.0.0.1:50051";
const USER = `${env["LUNA_AUTH_USERNAME"] ?? "admin"}:${env["LUNA_AUTH_PASSWORD"] ?? ""}`;
const ID = env["INSTANCE_ID"] ?? "orders-grpc:localhost:8080";
const OWNER = randomUUID(); // with it this process gets its own registration back, and no one else's

// What is used here of the proto, in the shape that proto-loader gives it.
type Lease = { heartbeat_interval: { seconds: string; nanos: number }; epoch: string };
type Registered = { instance: { generation: string }; lease: Lease };
type Answer = { failures: { code: grpc.status; message: string }[]; lease: Lease; reconnect: boolean };
type Done<T> = (error: grpc.ServiceError | null, answer: T) => void;
interface Registry extends grpc.Client {
  Register(request: object, metadata: grpc.Metadata, options: grpc.CallOptions, done: Done<Registered>): void;
  Deregister(request: object, metadata: grpc.Metadata, options: grpc.CallOptions, done: Done<object>): void;
  StreamHeartbeats(metadata: grpc.Metadata): grpc.ClientDuplexStream<object, Answer>;
}

const PROTOS = fileURLToPath(new URL("../../proto", import.meta.url));
const OPTIONS = { includeDirs: [PROTOS], keepCase: true, longs: String, defaults: true };
const { luna } = grpc.loadPackageDefinition(loadSync("luna/registry/v1/registry.proto", OPTIONS)) as unknown as {
  luna: { registry: { v1: { Registry: new (...args: ConstructorParameters<typeof grpc.Client>) => Registry } } };
};

const CREDENTIALS = new grpc.Metadata();
CREDENTIALS.set("authorization", `Basic ${Buffer.from(USER).toString("base64")}`);

/** The registry would say the same to the next try. */
const REFUSALS: { [code: number]: string } = {
  [grpc.status.UNAUTHENTICATED]: "wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD",
  [grpc.status.PERMISSION_DENIED]: "not allowed",
  [grpc.status.INVALID_ARGUMENT]: "not accepted",
  [grpc.status.ALREADY_EXISTS]: "another registration has taken over",
  [grpc.status.FAILED_PRECONDITION]: "another registration has taken over",
};

let generation = ""; // of the registration that we hold; empty: none
let epoch = "";
let interval = 10_000; // until the registry names another
let attempts = 0; // since the last answer

/** Opens a connection of its own: one that is shared with other parts of a program may be the one that has just gone silent. */
function connect(): Registry {
  return new luna.registry.v1.Registry(ADDRESS, grpc.credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 });
}

async function register(registry: Registry): Promise<void> {
  // At our start, whoever has the id is most likely our own earlier run, and is replaced. Later on it would be our successor.
  const request = { instance: { instance_id: ID, version: "1.0.0" }, replace: epoch === "", owner: OWNER };
  const answer = await promisify(registry.Register.bind(registry))(request, CREDENTIALS, { deadline: Date.now() + 5000 });
  generation = answer.instance.generation;
  learn(answer.lease);
  console.log(`registered ${ID}`);
}

function learn(lease: Lease): void {
  interval = Number(lease.heartbeat_interval.seconds) * 1000 + lease.heartbeat_interval.nanos / 1e6;
  epoch = lease.epoch;
  attempts = 0;
}

/** Beats on one stream until there is a reason to register again, to open another stream, or to stop. */
async function beat(registry: Registry, stop: AbortSignal): Promise<void> {
  const stream = registry.StreamHeartbeats(CREDENTIALS);
  stream.on("error", () => {}); // the loop throws its errors; this is for one that comes after the loop and would end the process
  const answerWithin = (ms: number) => setTimeout(() => stream.destroy(new Error("the registry is silent")), ms);
  let silence = answerWithin(interval);
  let next: NodeJS.Timeout | undefined;
  const send = (message: object) => {
    stream.write(message);
    next = setTimeout(send, interval, { instance_ids: [ID] });
  };
  const halfClose = () => {
    clearTimeout(next);
    stream.end(); // the registry says its last word, and the loop ends
  };
  stop.addEventListener("abort", halfClose);
  try {
    send({ heartbeats: [{ instance_id: ID, generation }] }); // this stream renews our generation of the id, and no other
    for await (const { failures, lease, reconnect } of stream as AsyncIterable<Answer>) {
      clearTimeout(silence);
      silence = answerWithin(2 * interval); // one until the next heartbeat, and one for its answer
      const refusal = failures.find(({ code }) => code in REFUSALS);
      if (refusal) throw Object.assign(new Error(refusal.message), { code: refusal.code });
      const missing = failures.some(({ code }) => code === grpc.status.NOT_FOUND);
      const forgotten = missing || lease.epoch !== epoch; // the registry was started anew
      if (forgotten) generation = "";
      if (forgotten || reconnect) halfClose();
      learn(lease);
    }
  } finally {
    stop.removeEventListener("abort", halfClose);
    clearTimeout(next);
    clearTimeout(silence);
    stream.cancel();
  }
}

/** Registers and beats until told to stop. A registry that is away is waited for. */
async function keepRegistered(stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    const registry = connect();
    try {
      if (!generation) await register(registry);
      if (!stop.aborted) await beat(registry, stop);
    } catch (error) {
      const { code, message } = error as grpc.ServiceError;
      if (REFUSALS[code]) throw new Error(`${REFUSALS[code]} (${message})`);
      console.error(`${message}; trying again`);
    } finally {
      registry.close();
    }
    // Full jitter, or else all workers of a registry would come back to it at the same moment.
    const pause = Math.random() * Math.min(interval, 500 * 2 ** attempts++);
    await sleep(pause, undefined, { signal: stop }).catch(() => {}); // stopping ends the sleep with an error
  }
}

async function deregister(): Promise<void> {
  const registry = connect();
  const request = { instance_id: ID, generation };
  try {
    await promisify(registry.Deregister.bind(registry))(request, CREDENTIALS, { deadline: Date.now() + 5000 });
    console.log(`deregistered ${ID}`);
  } catch (error) {
    console.error(`not deregistered, the lease will run out: ${(error as Error).message}`);
  } finally {
    registry.close();
  }
}

const stopping = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stopping.abort());
try {
  await keepRegistered(stopping.signal);
  if (generation) await deregister();
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
}

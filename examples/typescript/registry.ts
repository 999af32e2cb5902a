/** How to reach a registry over gRPC, and which of its errors are final. */

import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import type { RegistryClient } from "./stubs/luna/registry/v1/Registry.js";
import type { ProtoGrpcType } from "./stubs/registry.js";

const env = process.env;
const ADDRESS = env["LUNA_ADDRESS"] ?? "127.0.0.1:50051";
const USER = `${env["LUNA_AUTH_USERNAME"] ?? "admin"}:${env["LUNA_AUTH_PASSWORD"] ?? ""}`;
export const CREDENTIALS = new grpc.Metadata();
CREDENTIALS.set("authorization", `Basic ${Buffer.from(USER).toString("base64")}`);

// The same options as those that the stubs were generated with; see package.json.
const PROTOS = fileURLToPath(new URL("../../proto", import.meta.url));
const OPTIONS = { includeDirs: [PROTOS], keepCase: true, longs: String, enums: String, defaults: true };
const { luna } = grpc.loadPackageDefinition(
  loadSync("luna/registry/v1/registry.proto", OPTIONS),
) as unknown as ProtoGrpcType;

const REFUSALS: { [code: number]: string } = {
  [grpc.status.UNAUTHENTICATED]: "wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD",
  [grpc.status.PERMISSION_DENIED]: "not allowed",
  [grpc.status.INVALID_ARGUMENT]: "not accepted",
  [grpc.status.ALREADY_EXISTS]: "another registration has taken over",
  [grpc.status.FAILED_PRECONDITION]: "another registration has taken over",
};

/** An error as the registry tells it. */
export function failure(code: number, message: string): Error {
  return Object.assign(new Error(message), { code });
}

/** Whether the registry would say the same to the next try. */
export function isRefusal(code: number): boolean {
  return code in REFUSALS;
}

/** Opens a connection of its own: one that is shared with other parts of a program may be the one that has just gone silent. */
function connect(): RegistryClient {
  const options = { "grpc.use_local_subchannel_pool": 1, "grpc.keepalive_time_ms": 20_000, "grpc.keepalive_timeout_ms": 5000 };
  return new luna.registry.v1.Registry(ADDRESS, grpc.credentials.createInsecure(), options);
}

/** Works over a connection, closed afterwards. */
export async function connected<T>(work: (registry: RegistryClient) => Promise<T>): Promise<T> {
  const registry = connect();
  try {
    return await work(registry);
  } finally {
    registry.close();
  }
}

/** Makes a promise of an rpc that is given 5 s. */
export function answered<T>(
  rpc: (metadata: grpc.Metadata, options: grpc.CallOptions, done: grpc.requestCallback<T>) => unknown,
): Promise<T> {
  return new Promise((resolve, reject) => {
    rpc(CREDENTIALS, { deadline: Date.now() + 5000 }, (error, answer) => (error ? reject(error) : resolve(answer!)));
  });
}

/** What a client knows between two tries. */
export interface Tries {
  attempts: number; // since the last answer
  interval: number; // the longest pause between two tries, in ms
}

/** Does a task again and again, until told to stop or refused. A registry that is away is waited for. */
export async function retry(tries: Tries, stop: AbortSignal, task: () => Promise<void>): Promise<void> {
  while (!stop.aborted) {
    try {
      await task();
    } catch (error) {
      const { code, message } = error as grpc.ServiceError;
      if (isRefusal(code)) throw new Error(`${REFUSALS[code]} (${message})`);
      if (!stop.aborted) console.error(`${message}; trying again`);
    }
    // Full jitter, or else all clients of a registry would come back to it at the same moment.
    const pause = Math.random() * Math.min(tries.interval, 500 * 2 ** tries.attempts++);
    await sleep(pause, undefined, { signal: stop }).catch(() => {}); // stopping ends the sleep with an error
  }
}

/** Runs a program until SIGTERM or Ctrl-C. */
export async function main(program: (stop: AbortSignal) => Promise<void>): Promise<void> {
  const stopping = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stopping.abort());
  try {
    await program(stopping.signal);
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}

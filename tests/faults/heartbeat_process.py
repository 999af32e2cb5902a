"""A heartbeat client in a process of its own, so that it can be killed: lines of JSON in are messages, answers are lines out.

The end of the input is a half-close; the last line then is the status with which the stream ended.

Usage: heartbeat_process.py ADDRESS AUTHORIZATION. Many of them are started at a time, so it imports little.
"""

import sys
from collections.abc import Iterator

import grpc
from google.protobuf import json_format

from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc


def _messages() -> Iterator[pb.StreamHeartbeatsRequest]:
    for line in sys.stdin:
        yield json_format.Parse(line, pb.StreamHeartbeatsRequest())


def main() -> None:
    """Carry lines to the stream and back."""
    with grpc.insecure_channel(sys.argv[1]) as channel:
        call = registry_pb2_grpc.RegistryStub(channel).StreamHeartbeats(_messages(), metadata=(("authorization", sys.argv[2]),))
        for answer in call:
            sys.stdout.write(json_format.MessageToJson(answer, indent=None) + "\n")
            sys.stdout.flush()
        sys.stdout.write(f"{call.code().name}\n")


if __name__ == "__main__":
    main()

"""The same as worker.py, with the SDK: what a client has to do is done by it."""

import os
import signal
import sys
import threading
from queue import SimpleQueue

from luna_grpc.client import ClientError, Registration, Status


def listen(registration: Registration) -> None:
    """Say of its health what is typed: DOWN or OK."""
    for line in sys.stdin:
        registration.set_status(Status(line.strip()))


def main() -> int:
    """Keep an instance registered until SIGTERM, Ctrl-C or the end of the registration; return the exit code."""
    end: SimpleQueue[ClientError | None] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.put(None))
    instance_id = os.environ.get("INSTANCE_ID", "orders-sdk:localhost:8080")
    with Registration(
        instance_id, version="1.0.0", wait=0, on_lost=end.put, address=os.environ.get("LUNA_GRPC_ADDRESS")
    ) as registration:
        threading.Thread(target=listen, args=(registration,), daemon=True).start()
        error = end.get()
    if error is not None:
        print(error, file=sys.stderr)
    return 0 if error is None else 1


if __name__ == "__main__":
    sys.exit(main())

"""A worker that keeps itself registered with Luna, from its start until SIGTERM or Ctrl-C.

What it says of its health is the last line of its standard input: OK or DOWN.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Final, cast

from luna_grpc.client import ClientError, Registration, Status

ID: Final = os.environ.get("INSTANCE_ID", "orders-python:localhost:8080")


def listen(registration: Registration) -> None:
    """Read a piece of the standard input, and pass its last word on."""
    words = os.read(0, 1000).decode(errors="replace").split()
    if not words:
        asyncio.get_running_loop().remove_reader(0)  # nobody is there to say anything
    elif words[-1] in {"OK", "DOWN"}:
        registration.set_status(Status(words[-1]))


async def main() -> int:
    """Be registered until told to stop; return the exit code."""
    loop = asyncio.get_running_loop()
    this = cast("asyncio.Task[int]", asyncio.current_task())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, this.cancel)
    try:
        # A registry that is away is waited for in the background: a worker has other things to do.
        async with Registration(ID, version="1.0.0", wait=0) as registration:
            with suppress(PermissionError):  # the standard input is a file, or /dev/null
                loop.add_reader(0, listen, registration)
            await registration.until_lost()
    except asyncio.CancelledError:
        return 0
    except ClientError as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""Whether an object is used in the process in which it was started, or in one that was forked from it."""

import os

from luna_grpc.client.errors import ForkedError


class OwnProcess:
    """The process that an object was started in."""

    def __init__(self) -> None:
        self._pid: int | None = None

    def begin(self) -> None:
        """Note that it is started."""
        self._pid = os.getpid()

    @property
    def is_this(self) -> bool:
        """Whether nothing was started elsewhere."""
        return self._pid in {None, os.getpid()}

    def check(self, what: str) -> None:
        """Let pass what is used where it works.

        Raises:
            ForkedError: this is another process.

        """
        if not self.is_this:
            raise ForkedError(
                f"{what} was started by process {self._pid} and works only there; this process was forked from it: make another "
                "one after the fork"
            )

"""What is to be done before SIGTERM ends the process."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from luna_grpc.client.errors import ConfigurationError


class SigtermHandler:
    """Deregisters on SIGTERM, and then does what was installed before."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._pid = os.getpid()
        self._before: Callable[[int, FrameType | None], object] | int | None = signal.SIG_DFL

    def install(self) -> None:
        """Take the place of the handler that is installed.

        Raises:
            ConfigurationError: this is not the main thread, the only one that may.

        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "handle_sigterm=True needs the main thread: start the registration there, or call stop() yourself"
            )
        self._before = signal.signal(signal.SIGTERM, self._handle)

    def uninstall(self) -> None:
        """Put back what was there before, unless someone else has come since."""
        in_place = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == self._handle
        if in_place and self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:  # a forked worker has inherited the handler, and not the registration
            self._leave()
        if callable(self._before):
            self._before(number, frame)
        elif self._before != signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

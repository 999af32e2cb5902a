"""What is to be done before SIGTERM ends the process."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import ClassVar, TypeAlias

from luna_grpc.client.errors import ConfigurationError

Before: TypeAlias = Callable[[int, FrameType | None], object] | int | None


class SigtermHandler:
    """Deregisters on SIGTERM, and then does what was installed before: one handler of the process, for all that want it."""

    _installed: ClassVar[dict["SigtermHandler", None]] = {}
    _before: ClassVar[Before] = signal.SIG_DFL
    _handling: ClassVar[bool] = False

    def __init__(self, leave: Callable[[], None], wait: Callable[[], None]) -> None:
        """All are told to `leave` before the first is waited for: their drains run at the same time."""
        self.leave = leave
        self.wait = wait
        self.pid = 0

    @staticmethod
    def check() -> None:
        """Let pass who may install it.

        Raises:
            ConfigurationError: this is not the main thread, the only one that may.

        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "handle_sigterm=True needs the main thread: start the registration there, or call stop() yourself"
            )

    def install(self) -> None:
        """Take the place of the handler that is installed; a second call does nothing."""
        self.check()
        self.pid = os.getpid()  # it may have been made before a fork
        if signal.getsignal(signal.SIGTERM) != SigtermHandler._handle:
            SigtermHandler._before = signal.signal(signal.SIGTERM, SigtermHandler._handle)
        SigtermHandler._installed[self] = None

    def uninstall(self) -> None:
        """Be called no more; the last one puts back what was there before, unless someone else has come since."""
        SigtermHandler._installed.pop(self, None)
        in_place = (
            threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == SigtermHandler._handle
        )
        if in_place and not SigtermHandler._installed and SigtermHandler._before is not None:
            signal.signal(signal.SIGTERM, SigtermHandler._before)

    @staticmethod
    def _handle(number: int, frame: FrameType | None) -> None:
        if SigtermHandler._handling:  # called by one that was installed over this one and is what was there before, too
            return
        SigtermHandler._handling = True
        try:
            # A forked worker has inherited the handlers, and not the registrations.
            own = [handler for handler in list(SigtermHandler._installed) if os.getpid() == handler.pid]
            for handler in own:
                handler.leave()
            for handler in own:
                handler.wait()
            if callable(SigtermHandler._before):
                SigtermHandler._before(number, frame)
            elif SigtermHandler._before != signal.SIG_IGN:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
        finally:
            SigtermHandler._handling = False

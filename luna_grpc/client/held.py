"""One registration as the process that holds it sees it. No I/O."""

import math
from typing import NamedTuple

from luna_grpc.client.errors import ClientError
from luna_grpc.model import Status
from luna_grpc.v1 import registry_pb2 as pb

TO_PROTO = {Status.OK: pb.STATUS_OK, Status.DOWN: pb.STATUS_DOWN}


class Report(NamedTuple):
    """What an instance says of itself."""

    status: Status
    instance: pb.Instance
    """Never changed; another description is another message."""


class Held:
    """What the program wants of one registration, and how far the registry has been told."""

    def __init__(
        self,
        instance: pb.Instance,
        status: Status = Status.OK,
        *,
        replace: bool = True,
        tied: bool = False,
        checked: bool = False,
    ) -> None:
        """One that is tied needs a `pulse` in each interval, one that is checked a `health` that is good."""
        self.id = instance.instance_id
        self.instance = instance
        self.status = status
        self.replace = replace
        self.was_registered = False
        self.generation = 0  # of the registration that we hold; 0: none
        self.epoch = ""
        self.error: ClientError | None = None
        self.shown: tuple[str, str] | None = None  # what the program was told last

        self.asked_on: int | None = None  # the connection on which registering or deregistering is under way
        self.attempts = 0  # to register since the last success
        self.ask_at = -math.inf

        self.told = self.confirmed = Report(status, instance)  # the last that was sent, and the last that was answered well
        self._asked = self.told  # the last that a registration was asked for with
        self._told_in = 0  # the message that has sent what was told
        self.change_at = -math.inf  # when a change may be sent

        self.leave_at = math.inf  # when it is to be deregistered
        self.give_up_at = math.inf

        self._tied = tied
        self._pulse_at = -math.inf
        self._checked = checked
        self._healthy_at = -math.inf  # when the last check that was good ended

    @property
    def leaving(self) -> bool:
        """Whether the program has stopped it."""
        return self.leave_at < math.inf

    def pulse(self, now: float) -> None:
        """Note that the program's loop runs."""
        self._pulse_at = now

    def health(self, now: float, *, ok: bool) -> None:
        """Note what a check has found."""
        self._healthy_at = now if ok else -math.inf

    def alive(self, now: float, interval: float) -> bool:
        """Whether heartbeats may be sent: always, unless they are tied to a loop that was not seen to run for an interval."""
        return not self._tied or now - self._pulse_at <= interval

    def report(self, now: float, interval: float) -> Report:
        """Return what the registry is to be told. A check that has not been good for two intervals may be one that hangs."""
        ill = self._checked and now - self._healthy_at > 2 * interval
        return Report(Status.DOWN if ill or self.leaving else self.status, self.instance)

    def sent(self, report: Report, sequence: int) -> None:
        """Note that a message tells the registry of it."""
        self.told = report
        self._told_in = sequence

    def answered(self, sequence: int) -> None:
        """Note that all messages up to this one were answered."""
        if self._told_in <= sequence:
            self.confirmed = self.told

    def unsent(self, change_at: float = -math.inf) -> None:
        """Note that what is not confirmed has to be said again, from a moment on."""
        self.told = self.confirmed
        self._told_in = 0
        self.change_at = change_at

    def take_back(self, error: ClientError | None) -> None:
        """Return to what the registry has accepted: it does not accept what was said after that."""
        self.status, self.instance = self.confirmed
        self.error = error
        self.unsent()

    def forget(self, ask_at: float) -> None:
        """Note that the registry does not know it any more; ask for it again at a moment."""
        self.generation = 0
        self.ask_at = ask_at

    def request(self, now: float, interval: float, owner: str) -> pb.RegisterRequest:
        """Ask for the registration. At our start, whoever has it is most likely our earlier run; later on it is our successor."""
        self._asked = self.report(now, interval)
        request = pb.RegisterRequest(owner=owner, replace=self.replace and not self.was_registered)
        request.instance.CopyFrom(self._asked.instance)
        request.instance.status = TO_PROTO[self._asked.status]
        return request

    def registered(self, response: pb.RegisterResponse) -> None:
        """Take the answer to the last request."""
        self.was_registered = True
        self.attempts = 0
        self.generation = response.instance.generation
        self.epoch = response.lease.epoch
        self.confirmed = self._asked
        self.unsent()

    def entry(self, report: Report) -> pb.HeartbeatRequest:
        """Return a heartbeat that names the generation, and says what is new."""
        entry = pb.HeartbeatRequest(instance_id=self.id, generation=self.generation, status=TO_PROTO[report.status])
        if report.instance is not self.confirmed.instance:
            entry.instance.CopyFrom(report.instance)
        return entry

"""A session with a clock and a registry that do what a test says."""

from random import Random
from typing import TypeVar

from luna_grpc.client import errors
from luna_grpc.client.actions import Action, Deregister, Drop, Finish, Register, Send, State, Tell
from luna_grpc.client.held import Held
from luna_grpc.client.session import Session
from luna_grpc.model import OnDisconnect, Status
from luna_grpc.v1 import registry_pb2 as pb

ID = "orders:localhost:8080"
INTERVAL = 10.0
A = TypeVar("A", Register, Deregister, Send, Finish, Drop, Tell)


def lease(epoch: str = "one", interval: float = INTERVAL) -> pb.Lease:
    """Return the terms of a registry."""
    terms = pb.Lease(epoch=epoch)
    terms.heartbeat_interval.FromNanoseconds(round(interval * 1e9))
    return terms


class Acting:
    """What a session wanted done, in order, and the means to answer it."""

    def __init__(self, seed: int = 1, on_disconnect: OnDisconnect = OnDisconnect.KEEP) -> None:
        self.now = 100.0
        self.session = Session("me", Random(seed), on_disconnect)
        self.actions: list[Action] = []
        self.told: list[Tell] = []
        self.connection = 0

    def step(self) -> list[Action]:
        """Note what is to be done now. There must be no more to do at the same moment, or the thread would spin."""
        done = self.session.step(self.now)
        assert self.session.wakes_at(self.now) > self.now
        self.told += [action for action in done if isinstance(action, Tell)]
        self.connection = max([self.connection, *(action.connection for action in done if not isinstance(action, Tell))])
        self.actions = done
        return done

    def pass_time(self, seconds: float) -> list[tuple[float, Action]]:
        """Let time pass, and return what was to be done meanwhile, and when."""
        end = self.now + seconds
        done: list[tuple[float, Action]] = []
        while (at := self.session.wakes_at(self.now)) <= end:
            self.now = at
            done += [(at, action) for action in self.step()]
        self.now = end
        return done

    def only(self, kind: type[A]) -> A:
        """Return the one action of a kind that the last step wanted."""
        [action] = [action for action in self.actions if isinstance(action, kind)]
        return action

    def add(self, instance_id: str = ID, status: Status = Status.OK, *, replace: bool = True, **options: bool) -> Held:
        held = Held(pb.Instance(instance_id=instance_id), status, replace=replace, **options)
        self.session.add(self.now, held)
        self.step()
        return held

    def remove(self, held: Held, *, drain: float = 0.0) -> None:
        self.session.remove(self.now, held, drain=drain)
        self.step()

    def grant(self, generation: int = 7, epoch: str = "one", instance_id: str = ID) -> None:
        """Answer a registration."""
        response = pb.RegisterResponse(instance=pb.Instance(generation=generation), lease=lease(epoch))
        self.session.registered(self.connection, instance_id, response)
        self.step()

    def refuse(self, code: int, instance_id: str = ID) -> None:
        self.session.not_registered(self.now, self.connection, instance_id, code, "no")
        self.step()

    def answer(self, sequence: int, *failures: int, epoch: str = "one", reconnect: bool = False) -> None:
        """Answer on the stream; failures are codes, and concern the one id."""
        answer = pb.StreamHeartbeatsResponse(sequence=sequence, lease=lease(epoch), reconnect=reconnect)
        for code in failures:
            answer.failures.add(instance_id=ID, code=code, message="no")
        self.session.answered(self.now, self.connection, answer)
        self.step()

    def end(self, code: int = errors.UNAVAILABLE, connection: int | None = None) -> None:
        """End the stream."""
        self.session.ended(self.now, connection or self.connection, code, "gone")
        self.step()

    def registered(self) -> Held:
        """Bring an instance to the point at which its first message is answered."""
        held = self.add()
        self.grant()
        self.answer(1)
        assert self.state() is State.REGISTERED
        return held

    def state(self) -> State:
        """Return what the program was told last."""
        return self.told[-1].state

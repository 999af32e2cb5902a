"""Carries out what a session wants done, with the synchronous API of gRPC.

grpc.aio is left to the program: within a process it belongs to one event loop.
"""

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias

import grpc

from luna_grpc.client import errors
from luna_grpc.client.actions import Action, Deregister, Drop, Finish, Register, Send, Tell
from luna_grpc.client.endpoint import Endpoint
from luna_grpc.client.obstacles import outcome
from luna_grpc.client.session import Session
from luna_grpc.v1 import registry_pb2 as pb
from luna_grpc.v1 import registry_pb2_grpc

Input: TypeAlias = Callable[[float], None]
"""Something that has happened; called by the one thread of a session with the time."""
Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Connection:
    """A channel, and at most one heartbeat stream on it."""

    def __init__(self, channel: grpc.Channel, metadata: Metadata) -> None:
        self.channel = channel
        self.stub = registry_pb2_grpc.RegistryStub(channel)
        self.outbox: SimpleQueue[pb.StreamHeartbeatsRequest | None] = SimpleQueue()
        self._metadata = metadata
        self._streams = False

    def send(self, message: pb.StreamHeartbeatsRequest, read: Callable[[Any], None]) -> None:
        """Send a message; `read` gets the answers to the first and all others, in a thread of its own."""
        self.outbox.put(message)
        if not self._streams:
            self._streams = True
            call = self.stub.StreamHeartbeats(iter(self.outbox.get, None), metadata=self._metadata)
            _in_thread("heartbeat answers", read, call)

    def close(self) -> None:
        """End everything at once."""
        self.outbox.put(None)  # or a thread of gRPC would wait there for ever
        self.channel.close()


class Transport:
    """The connections of one session."""

    def __init__(
        self, endpoint: Endpoint, connect: Callable[[], grpc.Channel], session: Session, post: Callable[[Input], None]
    ) -> None:
        self._endpoint = endpoint
        self._connect = connect
        self._metadata = endpoint.metadata
        self._session = session
        self._post = post
        self._connections: dict[int, Connection] = {}

    def do(self, action: Action) -> None:
        """Begin with an action; whatever comes of it is posted."""
        if isinstance(action, Tell):
            return
        try:
            self._begin(action)
        except errors.ConfigurationError as error:  # files of TLS that were there at the start
            message = str(error)
            self._post(lambda now: self._session.ended(now, action.connection, errors.UNAVAILABLE, message))

    def _begin(self, action: Register | Deregister | Send | Finish | Drop) -> None:
        match action:
            case Register():
                self._register(action)
            case Deregister():
                self._deregister(action)
            case Send():
                self._open(action.connection).send(action.message, partial(self._read, action.connection))
            case Finish():
                self._finish(action.connection)
            case Drop():
                self._drop(action.connection)

    def close(self) -> None:
        """Close all that is open."""
        for number in [*self._connections]:
            self._drop(number)

    def _open(self, number: int) -> Connection:
        if number not in self._connections:
            self._connections[number] = Connection(self._connect(), self._metadata)
        return self._connections[number]

    def _finish(self, number: int) -> None:
        connection = self._connections.get(number)
        if connection is not None:
            connection.outbox.put(None)

    def _drop(self, number: int) -> None:
        connection = self._connections.pop(number, None)
        if connection is not None:
            connection.close()

    def _register(self, action: Register) -> None:
        instance_id = action.request.instance.instance_id
        stub = self._open(action.connection).stub

        def done(call: Any) -> None:  # noqa: ANN401 - the stubs do not know that it is a call and a future
            code, message = outcome(call, self._endpoint)
            if code == errors.OK:
                response = call.result()
                self._post(lambda _: self._session.registered(action.connection, instance_id, response))
            else:
                self._post(lambda now: self._session.not_registered(now, action.connection, instance_id, code, message))

        _in_thread("registration", done, stub.Register.future(action.request, timeout=action.timeout, metadata=self._metadata))

    def _deregister(self, action: Deregister) -> None:
        instance_id = action.request.instance_id
        stub = self._open(action.connection).stub

        def done(call: Any) -> None:  # noqa: ANN401 - same
            code, message = outcome(call, self._endpoint)
            self._post(lambda now: self._session.deregistered(now, action.connection, instance_id, code, message))

        _in_thread("deregistration", done, stub.Deregister.future(action.request, timeout=action.timeout, metadata=self._metadata))

    def _read(self, number: int, call: Any) -> None:  # noqa: ANN401 - same
        try:
            for answer in call:
                self._post(partial(self._answered, number, answer))
        except grpc.RpcError:
            pass  # the call tells how it ended
        code, message = outcome(call, self._endpoint)
        self._post(lambda now: self._session.ended(now, number, code, message))

    def _answered(self, number: int, answer: pb.StreamHeartbeatsResponse, now: float) -> None:
        self._session.answered(now, number, answer)


def _in_thread(name: str, wait: Callable[[Any], None], call: Any) -> None:  # noqa: ANN401 - same
    """Wait for a call where nothing else has to go on."""
    threading.Thread(target=wait, args=(call,), name=f"luna {name}", daemon=True).start()

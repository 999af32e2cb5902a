"""The thread that drives a session, over a channel of which a test is the other end, in time that passes when it says so."""

from queue import SimpleQueue
from typing import Any

import grpc
import grpc_testing
import pytest
from acting import INTERVAL, lease

from luna_grpc.client import AlreadyRegisteredError, ClientError, InternalError, OnDisconnect, State
from luna_grpc.client.endpoint import Endpoint, Tls
from luna_grpc.client.held import Held
from luna_grpc.client.runner import Pool, Runner
from luna_grpc.v1 import registry_pb2 as pb

ID = "orders:localhost:8080"
ENDPOINT = Endpoint("127.0.0.1:1", "me", "secret")
SERVICE = pb.DESCRIPTOR.services_by_name["Registry"]
METHODS = SERVICE.methods_by_name


class Driven:
    """A runner, and the other ends of its channels."""

    def __init__(self) -> None:
        self.now = 100.0
        self.channels: SimpleQueue[Any] = SimpleQueue()
        self.told: SimpleQueue[tuple[State, ClientError | None]] = SimpleQueue()
        self.runner = Runner(ENDPOINT, OnDisconnect.KEEP, "me", connect=self._connect, clock=lambda: self.now)
        self.held = Held(pb.Instance(instance_id=ID))
        self.runner.listeners[ID] = lambda state, error: self.told.put((state, error))
        self.runner.post(lambda now: self.runner.session.add(now, self.held))
        self.runner.start(lambda: False)
        assert self.told.get(timeout=20)[0] is State.STARTING

    def _connect(self) -> grpc.Channel:
        channel: grpc.Channel = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())
        self.channels.put(channel)
        return channel

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the thread know."""
        self.now += seconds
        self.runner.post(lambda _: None)

    def registered(self) -> tuple[Any, Any]:
        """Register; return the stream and its channel, with the first message taken and answered."""
        channel = self.channels.get(timeout=20)
        metadata, request, call = channel.take_unary_unary(METHODS["Register"])
        assert ("authorization", "Basic bWU6c2VjcmV0") in metadata
        assert (request.instance.instance_id, request.owner) == (ID, "me")
        response = pb.RegisterResponse(instance=pb.Instance(generation=7), lease=lease())
        call.terminate(response, (), grpc.StatusCode.OK, "")
        _, stream = channel.take_stream_stream(METHODS["StreamHeartbeats"])
        assert stream.take_request().heartbeats[0].generation == 7
        stream.send_response(pb.StreamHeartbeatsResponse(sequence=1, lease=lease()))
        assert self.told.get(timeout=20)[0] is State.REGISTERED
        return stream, channel

    def deregistered(self, channel: Any) -> None:
        """Stop, and see that the thread ends."""
        self.runner.post(lambda now: self.runner.session.remove(now, self.held))
        _, request, call = channel.take_unary_unary(METHODS["Deregister"])
        assert (request.instance_id, request.generation) == (ID, 7)
        call.terminate(pb.DeregisterResponse(), (), grpc.StatusCode.OK, "")
        while self.told.get(timeout=20)[0] is not State.STOPPED:
            pass


def test_calls_go_out_as_the_rules_say() -> None:
    """With credentials; the stream is half-closed at the end, and the thread ends with it."""
    driven = Driven()
    stream, channel = driven.registered()
    driven.pass_time(INTERVAL)
    assert stream.take_request() == pb.StreamHeartbeatsRequest(instance_ids=[ID], sequence=2)
    stream.send_response(pb.StreamHeartbeatsResponse(sequence=2, lease=lease()))
    driven.deregistered(channel)
    stream.requests_closed()
    stream.terminate((), grpc.StatusCode.OK, "")
    driven.runner.join(20)
    assert driven.runner.session.over


def test_a_silent_stream_is_followed_by_another_one() -> None:
    """On another channel, and half-closed when that has answered."""
    driven = Driven()
    stream, _ = driven.registered()
    driven.pass_time(INTERVAL)
    assert stream.take_request().sequence == 2
    driven.pass_time(INTERVAL)
    second = driven.channels.get(timeout=20)
    _, successor = second.take_stream_stream(METHODS["StreamHeartbeats"])
    assert successor.take_request().heartbeats[0].generation == 7
    assert driven.told.get(timeout=20)[0] is State.AWAY
    successor.send_response(pb.StreamHeartbeatsResponse(sequence=1, lease=lease()))
    assert driven.told.get(timeout=20)[0] is State.REGISTERED
    stream.requests_closed()
    stream.terminate((), grpc.StatusCode.OK, "")
    driven.deregistered(second)
    successor.requests_closed()
    successor.terminate((), grpc.StatusCode.OK, "")


def test_a_stream_that_breaks_is_followed_by_another_one() -> None:
    """After a moment, whatever the code says that is not final."""
    driven = Driven()
    stream, _ = driven.registered()
    stream.terminate((), grpc.StatusCode.INTERNAL, "broken")
    state, error = driven.told.get(timeout=20)
    assert (state, str(error)) == (State.AWAY, "broken")
    driven.pass_time(INTERVAL)
    channel = driven.channels.get(timeout=20)
    _, successor = channel.take_stream_stream(METHODS["StreamHeartbeats"])
    assert successor.take_request().sequence == 1
    successor.send_response(pb.StreamHeartbeatsResponse(sequence=1, lease=lease()))
    assert driven.told.get(timeout=20) == (State.REGISTERED, None)
    driven.deregistered(channel)
    successor.terminate((), grpc.StatusCode.OK, "")


def test_a_bug_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A program must not believe that it is registered when nobody sends heartbeats any more."""
    driven = Driven()
    stream, _ = driven.registered()
    driven.runner.post(lambda _: 1 // 0)  # type: ignore[arg-type]
    state, error = driven.told.get(timeout=20)
    assert (state, type(error)) == (State.LOST, InternalError)
    assert "because of a bug" in caplog.text
    stream.terminate((), grpc.StatusCode.OK, "")


def test_an_id_is_registered_once_in_a_process() -> None:
    """Two registrations would replace each other; it may be registered again when the first has ended."""
    pool = Pool()
    told: SimpleQueue[State] = SimpleQueue()
    runner = pool.add(ENDPOINT, OnDisconnect.KEEP, Held(pb.Instance(instance_id=ID)), lambda state, _: told.put(state))
    with pytest.raises(AlreadyRegisteredError, match="by this process already"):
        pool.add(ENDPOINT, OnDisconnect.MARK_DOWN, Held(pb.Instance(instance_id=ID)), lambda *_: None)
    pool.leave()
    while told.get(timeout=20) is not State.STOPPED:
        pass
    assert (pool.running, runner.listeners) == ({}, {})


def test_the_environment_says_where_the_registry_is() -> None:
    """Unless the program does. A certificate counts when no user is named."""
    env = {"LUNA_ADDRESS": "luna:1", "LUNA_AUTH_USERNAME": "orders", "LUNA_AUTH_PASSWORD": "secret", "LUNA_TLS_CA": "ca.pem"}
    assert Endpoint.of(None, None, None, None, env) == Endpoint("luna:1", "orders", "secret", Tls("ca.pem"))
    assert Endpoint.of("a:2", "b", "c", Tls("d"), env) == Endpoint("a:2", "b", "c", Tls("d"))
    assert Endpoint.of(None, None, None, None, {}) == Endpoint("127.0.0.1:50051", "admin", "")
    assert Endpoint.of(None, None, None, Tls(cert="c", key="k"), {}).metadata == ()
    assert "secret" not in repr(Endpoint.of(None, None, None, None, env))

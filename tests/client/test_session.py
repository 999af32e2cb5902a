"""The rules of staying registered, in time that passes only when a test says so."""

import math
from itertools import pairwise
from random import Random

import pytest
from acting import ID, INTERVAL, Acting, lease

from luna_grpc.client import errors
from luna_grpc.client.actions import Action, Deregister, Drop, Finish, Register, Send, State
from luna_grpc.client.held import Held
from luna_grpc.client.session import Session
from luna_grpc.model import OnDisconnect, Status
from luna_grpc.v1 import registry_pb2 as pb


@pytest.fixture
def acting() -> Acting:
    """Return a session of its own."""
    return Acting()


def test_it_registers_at_once_and_binds_the_stream_to_its_generation(acting: Acting) -> None:
    """With its owner, taking over from its earlier run; then the first message names the generation."""
    acting.add()
    asked = acting.only(Register)
    assert asked.request == pb.RegisterRequest(instance=pb.Instance(instance_id=ID, status=pb.STATUS_OK), replace=True, owner="me")
    acting.grant(7)
    [entry] = acting.only(Send).message.heartbeats
    assert entry == pb.HeartbeatRequest(instance_id=ID, generation=7, status=pb.STATUS_OK)
    assert [told.state for told in acting.told] == [State.STARTING, State.REGISTERED]


def test_heartbeats_go_out_at_the_interval_that_the_lease_names(acting: Acting) -> None:
    """The first at any moment of an interval, the others evenly after it."""
    acting.registered()
    sent = []
    for number in range(2, 6):
        [(at, action)] = acting.pass_time(acting.session.wakes_at(acting.now) - acting.now)
        assert isinstance(action, Send)
        assert action.message == pb.StreamHeartbeatsRequest(instance_ids=[ID], sequence=number)
        sent.append(at)
        acting.answer(number)
    assert 100 <= sent[0] <= 100 + INTERVAL
    assert [later - at for at, later in pairwise(sent)] == pytest.approx([INTERVAL] * 3)


def test_first_heartbeats_of_many_processes_are_spread() -> None:
    """They were registered at the same moment, and must not beat together for ever."""
    firsts = []
    for seed in range(50):
        acting = Acting(seed)
        acting.registered()
        firsts.append(acting.session.wakes_at(acting.now) - acting.now)
    assert _burst(firsts, INTERVAL) <= 10
    assert max(firsts) <= INTERVAL


def test_all_registrations_share_one_stream(acting: Acting) -> None:
    """And each regular heartbeat is one message."""
    acting.registered()
    acting.add("billing:localhost:9090")
    acting.grant(8, instance_id="billing:localhost:9090")
    assert acting.only(Send).connection == 1
    acting.answer(2)
    [(_, action)] = acting.pass_time(INTERVAL)
    assert isinstance(action, Send)
    assert action.message.instance_ids == [ID, "billing:localhost:9090"]


def test_a_change_of_status_is_sent_at_once(acting: Acting) -> None:
    """Naming the generation; and not again once it was answered."""
    held = acting.registered()
    held.status = Status.DOWN
    acting.step()
    [entry] = acting.only(Send).message.heartbeats
    assert (entry.status, entry.generation, entry.HasField("instance")) == (pb.STATUS_DOWN, 7, False)
    acting.answer(2)
    assert acting.actions == []


def test_a_change_of_the_description_is_sent_at_once(acting: Acting) -> None:
    """As a whole, until it is confirmed."""
    held = acting.registered()
    held.instance = pb.Instance(instance_id=ID, version="2")
    acting.step()
    assert acting.only(Send).message.heartbeats[0].instance.version == "2"
    acting.end()
    acting.pass_time(INTERVAL)


def test_a_change_that_was_not_answered_is_sent_again_on_the_next_connection(acting: Acting) -> None:
    """It may have gone down with the connection; an answer to what was sent before says nothing of it."""
    held = acting.registered()
    held.instance = pb.Instance(instance_id=ID, version="2")
    held.status = Status.DOWN
    acting.step()
    acting.answer(1)
    acting.end()
    [sent] = [action for _, action in acting.pass_time(1) if isinstance(action, Send)]
    [entry] = sent.message.heartbeats
    assert (entry.instance.version, entry.status) == ("2", pb.STATUS_DOWN)


@pytest.mark.parametrize("code", [errors.UNAVAILABLE, errors.RESOURCE_EXHAUSTED])
def test_a_change_that_could_not_be_kept_is_sent_again_later(acting: Acting, code: int) -> None:
    """Not at once: a registry with a full disk would be asked again and again."""
    held = acting.registered()
    held.status = Status.DOWN
    acting.step()
    changed_at = acting.now
    acting.answer(2, code)
    assert acting.actions == []
    sent = [(at, action) for at, action in acting.pass_time(INTERVAL) if isinstance(action, Send) and action.message.heartbeats]
    assert [at for at, _ in sent] == [changed_at + INTERVAL]


def test_a_description_that_is_not_accepted_is_taken_back(acting: Acting) -> None:
    """The registration lives on as it was, and the program is told why."""
    held = acting.registered()
    held.instance = pb.Instance(instance_id=ID, url="nonsense")
    acting.step()
    acting.answer(2, errors.INVALID_ARGUMENT)
    assert (acting.state(), type(acting.told[-1].error)) == (State.REGISTERED, errors.InvalidArgumentError)
    assert held.instance.url == ""
    assert not [action for _, action in acting.pass_time(9) if isinstance(action, Send) and action.message.heartbeats]


@pytest.mark.parametrize("how", ["NOT_FOUND", "epoch"])
def test_what_the_registry_has_forgotten_is_registered_again(acting: Acting, how: str) -> None:
    """By the same owner, within an interval, replacing nobody: whoever has come since is its successor."""
    acting.registered()
    if how == "epoch":
        acting.answer(1, epoch="two")
    else:
        acting.answer(1, errors.NOT_FOUND)
    assert acting.state() == State.AWAY
    [(at, action)] = acting.pass_time(INTERVAL)
    assert isinstance(action, Register)
    assert acting.now - INTERVAL < at
    assert (action.request.replace, action.request.owner) == (False, "me")
    acting.grant(8, "two")
    assert acting.only(Send).message.heartbeats[0].generation == 8
    acting.answer(2, epoch="two")
    assert acting.state() == State.REGISTERED


@pytest.mark.parametrize("how", ["heartbeat", "registration"])
def test_who_was_superseded_stops_for_good(acting: Acting, how: str) -> None:
    """Or two processes would replace each other for ever."""
    acting.registered()
    if how == "heartbeat":
        acting.answer(1, errors.FAILED_PRECONDITION)
    else:
        acting.answer(1, errors.NOT_FOUND)
        acting.pass_time(INTERVAL)
        acting.refuse(errors.ALREADY_EXISTS)
    assert (acting.state(), type(acting.told[-1].error)) == (State.LOST, errors.SupersededError)
    assert {type(action) for _, action in acting.pass_time(100)} <= {Drop, Finish}
    assert acting.session.over


def test_a_failure_of_the_generation_before_does_not_count(acting: Acting) -> None:
    """An answer covers all messages since the last one, and we have renewed our generation in between."""
    acting.registered()
    acting.answer(1, errors.NOT_FOUND)
    acting.pass_time(INTERVAL)
    acting.grant(8)  # message 2 names the new generation
    acting.answer(2, errors.FAILED_PRECONDITION)
    assert acting.state() == State.REGISTERED
    assert acting.only(Send).message.heartbeats[0].generation == 8  # said once more, to be sure
    acting.answer(3, errors.FAILED_PRECONDITION)
    assert acting.state() == State.LOST


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errors.UNAUTHENTICATED, errors.CredentialsError),
        (errors.PERMISSION_DENIED, errors.NotAllowedError),
        (errors.INVALID_ARGUMENT, errors.InvalidArgumentError),
        (errors.ALREADY_EXISTS, errors.AlreadyRegisteredError),
        (errors.UNIMPLEMENTED, errors.NotALunaError),
    ],
)
def test_a_registration_that_is_refused_is_not_tried_again(acting: Acting, code: int, error: type[errors.ClientError]) -> None:
    """The registry would say the same, and a storm of tries helps nobody."""
    acting.add(replace=False)
    assert not acting.only(Register).request.replace
    acting.refuse(code)
    assert (acting.state(), type(acting.told[-1].error)) == (State.LOST, error)
    assert acting.only(Drop).connection == 1
    assert (acting.session.over, acting.pass_time(100)) == (True, [])


@pytest.mark.parametrize("streams", [False, True], ids=["alone", "beside another one"])
def test_a_limit_is_told_from_a_registry_that_is_away(acting: Acting, *, streams: bool) -> None:
    """It is tried again all the same."""
    if streams:
        acting.registered()
    acting.add("billing:localhost:9090")
    acting.refuse(errors.RESOURCE_EXHAUSTED, "billing:localhost:9090")
    assert (acting.state(), type(acting.told[-1].error)) == (State.STARTING, errors.LimitError)
    assert any(isinstance(action, Register) for _, action in acting.pass_time(INTERVAL))


def test_credentials_that_are_withdrawn_end_all_registrations(acting: Acting) -> None:
    """The stream ends with the same error that the next registration would meet."""
    acting.registered()
    acting.end(errors.UNAUTHENTICATED)
    assert (acting.state(), type(acting.told[-1].error)) == (State.LOST, errors.CredentialsError)
    assert acting.session.over


def test_a_registry_that_is_not_there_is_tried_again_with_backoff_and_jitter() -> None:
    """Each wait is anything up to a bound that doubles, and no longer than half an interval."""
    tries: list[list[float]] = []
    for seed in range(30):
        acting = Acting(seed)
        acting.add()
        waits = []
        for _ in range(12):
            asked_at = acting.now
            acting.refuse(errors.UNAVAILABLE)
            assert isinstance(acting.actions[0], Drop)
            acting.pass_time(acting.session.wakes_at(acting.now) - acting.now)
            waits.append(acting.now - asked_at)
            assert acting.only(Register).connection == acting.connection
        tries.append(waits)
    for number, waited in enumerate(zip(*tries, strict=True)):
        bound = min(INTERVAL / 2, 0.25 * 2**number)
        assert max(waited) <= bound
        assert min(waited) < bound / 4
        assert max(waited) > bound / 2


def test_a_silent_registry_is_left_after_an_interval(acting: Acting) -> None:
    """Another stream on another connection names the generation again; the old one goes when the new one has answered."""
    acting.registered()
    acting.pass_time(acting.session.wakes_at(acting.now) - acting.now)
    sent_at = acting.now
    done = acting.pass_time(INTERVAL)
    [(at, send)] = [(at, action) for at, action in done if isinstance(action, Send) and action.connection == 2]
    assert at == sent_at + INTERVAL
    assert isinstance(send, Send)
    assert send.message.heartbeats[0].generation == 7
    assert not [action for _, action in done if isinstance(action, Drop | Finish)]
    assert acting.state() == State.AWAY
    acting.answer(1)
    assert acting.only(Finish).connection == 1
    assert acting.state() == State.REGISTERED
    acting.end(errors.OK, connection=1)
    assert acting.only(Drop).connection == 1


def test_a_silent_connection_is_dropped_in_the_end(acting: Acting) -> None:
    """Connections to a registry that hangs do not pile up: at most a few are open at a time."""
    acting.registered()
    open_now: set[int] = {1}
    for _, action in acting.pass_time(100 * INTERVAL):
        if isinstance(action, Send):
            open_now.add(action.connection)
        elif isinstance(action, Drop):
            open_now.discard(action.connection)
        assert len(open_now) <= 3
    assert acting.connection > 20


def test_it_goes_elsewhere_when_asked_to(acting: Acting) -> None:
    """Nearly at once; the old stream is half-closed when the new one has answered."""
    acting.registered()
    acting.answer(1, reconnect=True)
    [(at, send)] = [(at, action) for at, action in acting.pass_time(INTERVAL / 10) if isinstance(action, Send)]
    assert at <= 100 + INTERVAL / 10
    assert isinstance(send, Send)
    assert send.connection == 2
    acting.answer(1)
    assert acting.only(Finish).connection == 1
    assert {told.state for told in acting.told} == {State.STARTING, State.REGISTERED}


def test_a_registry_that_always_sends_it_elsewhere_is_not_stormed(acting: Acting) -> None:
    """From the second time on it backs off."""
    acting.registered()
    for _ in range(20):
        acting.answer(1, reconnect=True)
        acting.pass_time(acting.session.wakes_at(acting.now) - acting.now)
        while not any(isinstance(action, Send) for action in acting.actions):
            acting.pass_time(acting.session.wakes_at(acting.now) - acting.now)
    assert acting.now - 100 > 2 * INTERVAL


def test_it_is_deregistered_with_its_generation(acting: Acting) -> None:
    """At once without a drain; then the stream is half-closed and the connection closed."""
    held = acting.registered()
    acting.remove(held)
    assert acting.only(Deregister).request == pb.DeregisterRequest(instance_id=ID, generation=7)
    acting.session.deregistered(acting.now, 1, ID, errors.OK, "")
    acting.step()
    assert acting.state() == State.STOPPED
    assert acting.only(Finish).connection == 1
    acting.end(errors.OK)
    assert acting.only(Drop).connection == 1
    assert acting.session.over


def test_a_drain_reports_down_first(acting: Acting) -> None:
    """Heartbeats go on meanwhile, so that it stays listed as what it is."""
    held = acting.registered()
    acting.remove(held, drain=15)
    assert acting.only(Send).message.heartbeats[0].status == pb.STATUS_DOWN
    acting.answer(2)
    done = acting.pass_time(15)
    assert isinstance(done[-1][1], Deregister)
    assert done[-1][0] == 115
    assert next(action for _, action in done if isinstance(action, Send)).message.instance_ids == [ID]


def test_who_is_forgotten_while_it_drains_waits_for_its_end(acting: Acting) -> None:
    """And not by looking at it over and over: each step has nothing more to do at its moment."""
    held = acting.registered()
    acting.remove(held, drain=30)
    acting.answer(2, errors.NOT_FOUND)
    acting.pass_time(29)
    assert acting.pass_time(30) != []
    assert acting.state() == State.STOPPED


@pytest.mark.parametrize("away", ["before", "meanwhile"])
def test_a_registry_that_is_away_does_not_hold_up_the_end(acting: Acting, away: str) -> None:
    """It is tried at once and for five seconds, and then the lease is left to run out."""
    held = acting.registered()
    if away == "before":
        acting.end()
    acting.remove(held)
    assert acting.only(Deregister).connection == (2 if away == "before" else 1)
    if away == "meanwhile":
        acting.end()
    tries = 0
    for _ in range(100):
        if acting.session.over:
            break
        if any(isinstance(action, Deregister) for action in acting.actions):
            tries += 1
            acting.session.deregistered(acting.now, acting.connection, ID, errors.UNAVAILABLE, "away")
            acting.step()
        acting.pass_time(acting.session.wakes_at(acting.now) - acting.now)
    assert tries > 1
    assert (acting.state(), type(acting.told[-1].error)) == (State.STOPPED, errors.UnavailableError)
    assert acting.now <= 106 + 1


def test_a_stop_while_registering_waits_for_the_answer(acting: Acting) -> None:
    """Or the registration would stay behind."""
    held = acting.add()
    acting.remove(held)
    assert acting.told[-1].state is State.STARTING
    acting.grant(9)
    assert acting.only(Deregister).request.generation == 9


def test_a_stop_before_anything_was_asked_is_nothing(acting: Acting) -> None:
    """There is nothing to take back."""
    held = acting.add()
    acting.refuse(errors.UNAVAILABLE)
    acting.remove(held)
    assert acting.state() == State.STOPPED
    assert acting.session.over


def test_heartbeats_that_are_tied_to_a_loop_stop_with_it(acting: Acting) -> None:
    """When it was not seen for an interval; the next pulse goes on."""
    held = acting.add(tied=True)
    acting.grant()
    acting.answer(1)
    [action] = [action for _, action in acting.pass_time(INTERVAL)]
    assert isinstance(action, Send)
    acting.answer(2)
    assert not [action for _, action in acting.pass_time(5 * INTERVAL) if isinstance(action, Send | Register)]
    held.pulse(acting.now)
    assert [action for _, action in acting.pass_time(INTERVAL) if isinstance(action, Send)]


def test_a_loop_that_stands_still_is_not_registered_again(acting: Acting) -> None:
    """It would be listed as OK."""
    held = acting.add(tied=True)
    acting.grant()
    acting.now += 2 * INTERVAL
    acting.answer(1, epoch="two")
    assert not [action for _, action in acting.pass_time(2 * INTERVAL) if isinstance(action, Register)]
    held.pulse(acting.now)
    assert [action for action in acting.step() if isinstance(action, Register)]


def test_a_check_that_is_not_good_reports_down(acting: Acting) -> None:
    """It is DOWN until it has been good once, and when it has not been for two intervals: a check may hang."""
    held = acting.add(checked=True)
    assert acting.only(Register).request.instance.status == pb.STATUS_DOWN
    acting.grant()
    held.health(acting.now, ok=True)
    acting.step()
    assert acting.only(Send).message.heartbeats[0].status == pb.STATUS_OK
    acting.answer(2)
    held.health(acting.now, ok=False)
    acting.step()
    assert acting.only(Send).message.heartbeats[0].status == pb.STATUS_DOWN
    held.health(acting.now, ok=True)
    acting.step()
    sequence = acting.only(Send).message.sequence
    acting.answer(sequence)
    statuses = []
    for _ in range(4):
        acting.pass_time(acting.session.wakes_at(acting.now) - acting.now)
        sent = acting.only(Send).message
        statuses += [entry.status for entry in sent.heartbeats]
        acting.answer(sent.sequence)
    assert statuses == [pb.STATUS_DOWN]


def test_the_stream_asks_for_what_is_to_happen_when_it_breaks() -> None:
    """Once, with its first message."""
    acting = Acting(on_disconnect=OnDisconnect.MARK_DOWN)
    acting.add()
    acting.grant()
    assert acting.only(Send).message.options.on_disconnect == pb.ON_DISCONNECT_MARK_DOWN
    acting.answer(1)
    [(_, action)] = acting.pass_time(INTERVAL)
    assert isinstance(action, Send)
    assert not action.message.HasField("options")


class Restarted:
    """A registry with an empty memory, and a process that was registered before."""

    def __init__(self, seed: int) -> None:
        self.session = Session(str(seed), Random(seed))
        self.session.add(0, Held(pb.Instance(instance_id=ID)))
        self.registered_at = math.inf
        self._epoch = "one"
        self._generation = 1
        self._run(0, self.session.step(0))

    def _run(self, now: float, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Register):
                self.registered_at = now
                response = pb.RegisterResponse(instance=pb.Instance(generation=self._generation), lease=lease(self._epoch))
                self.session.registered(action.connection, ID, response)
            elif isinstance(action, Send):
                answer = pb.StreamHeartbeatsResponse(sequence=action.message.sequence, lease=lease(self._epoch))
                if self._epoch == "two" and self._generation == 1:
                    answer.failures.add(instance_id=ID, code=errors.NOT_FOUND)
                    self._generation = 2
                self.session.answered(now, action.connection, answer)
        if actions:
            self._run(now, self.session.step(now))

    def until(self, end: float, start: float = 0) -> None:
        while (at := max(start, self.session.wakes_at(start))) <= end:
            start = at
            self._run(at, self.session.step(at))

    def restart(self, now: float) -> None:
        self.registered_at = math.inf
        self._epoch = "two"
        self.session.ended(now, 1, errors.UNAVAILABLE, "gone")
        self._run(now, self.session.step(now))


def test_50_processes_come_back_spread_over_an_interval() -> None:
    """After a restart of the registry no more than a fifth of them register in any twentieth of an interval; all within two.

    Chance may bring a few more together in one restart of a hundred or so.
    """
    bursts = []
    for round_ in range(100):
        processes = [Restarted(1000 * round_ + number) for number in range(50)]
        for process in processes:
            process.until(33)
            process.restart(33)
            process.until(33 + 2 * INTERVAL, 33)
        back = [process.registered_at - 33 for process in processes]
        assert max(back) <= 2 * INTERVAL
        bursts.append(_burst(back, INTERVAL))
    assert bursts[0] <= 10
    assert sum(burst > 10 for burst in bursts) <= 5
    assert max(bursts) <= 15


def _burst(moments: list[float], interval: float) -> int:
    """Return the most that happen within a twentieth of an interval."""
    return max(sum(start <= moment <= start + interval / 20 for moment in moments) for start in moments)

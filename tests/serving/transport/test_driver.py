"""The driver carries out exactly what actors say, keeps its loop alive whatever comes, and loses no payload frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from loki_rl.core.effects import Effect, Load, Send
from loki_rl.core.messages import Cancelled, Drain, Event, Tick
from loki_rl.serving.transport.driver import Delivery, Driver
from loki_rl.serving.transport.event_queue import EventQueue
from loki_rl.serving.transport.mailbox import Mailbox
from loki_rl.serving.transport.multipart import Context
from loki_rl.serving.transport.wire import ControlWord, Letter, Up


class Scripted:
    """An actor that answers from a function, and notes what it was told and when."""

    def __init__(self, answer: Callable[[Event], list[Effect]] = lambda _: [], wake: float | None = None) -> None:
        self.answer = answer
        self.wake = wake
        self.told: list[Event] = []
        self.times: list[float] = []
        self.inside = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.told.append(event)
        self.times.append(now)
        if isinstance(event, Tick):
            self.wake = None
        return self.answer(event)

    def wake_at(self) -> float | None:
        return self.wake

    def validate(self) -> None:
        assert self.told is not None


HOMES = {"one": "a", "two": "a", "far": "b", "nowhere": "a"}


@pytest.fixture
def context() -> Iterator[Context]:
    with zmq.Context() as made:
        yield made


@pytest.fixture
def make(context: Context, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    endpoints = {name: f"ipc://{tmp_path}/{name}" for name in "ab"}
    made: list[Driver] = []

    def build(node: str = "a", **options: Any) -> Driver:
        made.append(Driver(Mailbox(context, node, endpoints), HOMES, **options))
        return made[-1]

    yield build
    for driver in made:
        driver.mailbox.close()
        driver.close()


def bring(driver: Driver, letter: Letter) -> None:
    """Hand a letter in as another thread would."""
    bell: EventQueue[Delivery] = EventQueue()
    driver.listen(bell)
    bell.put((letter, ()))
    driver.turn(5.0)


def until(done: Callable[[], object], *drivers: Driver) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, "it never came"
        for driver in drivers:
            driver.turn(0.005)


def pass_on(to: str) -> Callable[[Event], list[Effect]]:
    return lambda event: [Send(to, event)] if isinstance(event, Cancelled) else []


def test_letters_reach_actors_here_and_on_other_nodes_and_come_back(make: Callable[..., Driver]) -> None:
    a, b = make("a"), make("b")
    one, two, far = Scripted(pass_on("far")), Scripted(), Scripted(pass_on("two"))
    a.host("one", one)
    a.host("two", two)
    b.host("far", far)
    for number in range(200):
        bring(a, Letter("one", Cancelled([number]), ()))
    until(lambda: len(two.told) == 200, a, b)
    assert two.told == far.told == one.told == [Cancelled([number]) for number in range(200)]


def test_an_actor_is_never_called_from_inside_another(make: Callable[..., Driver]) -> None:
    a = make("a")
    order: list[str] = []

    def answer(name: str, to: str) -> Callable[[Event], list[Effect]]:
        def handle(event: Event) -> list[Effect]:
            order.append(name)
            depth = event.roots[0] if isinstance(event, Cancelled) else 0
            return [Send(to, Cancelled([depth - 1])), Send(to, Cancelled([0]))] if depth else []

        return handle

    a.host("one", Scripted(answer("one", "two")))
    a.host("two", Scripted(answer("two", "one")))
    bring(a, Letter("one", Cancelled([2]), ()))
    assert order == ["one", "two", "two", "one", "one"]


def test_a_failing_actor_a_stray_letter_and_a_foreign_effect_are_counted_and_the_loop_goes_on(
    make: Callable[..., Driver], caplog: pytest.LogCaptureFixture
) -> None:
    a = make("a")

    def fail(event: Event) -> list[Effect]:
        if isinstance(event, Drain):
            raise TypeError("not for me")
        return [Load(0, 0)] if isinstance(event, Cancelled) else []

    one = Scripted(fail)
    a.host("one", one)
    bring(a, Letter("one", Drain(), ()))
    bring(a, Letter("one", Cancelled([1]), ()))
    bring(a, Letter("unknown", Drain(), ()))
    bring(a, Letter("nowhere", Drain(), ()))
    bring(a, Letter("one", Tick(), ()))
    assert (a.faults, a.strays) == (2, 2)
    assert one.told[-1] == Tick()
    assert "cannot carry out Load" in caplog.text


def test_a_tick_comes_when_it_is_due_and_not_before(make: Callable[..., Driver]) -> None:
    a = make("a")
    due = time.monotonic() + 0.05
    one = Scripted(wake=due)
    a.host("one", one)
    until(lambda: one.told, a)
    assert one.told == [Tick()]
    assert due <= one.times[0]


def test_an_actor_whose_wake_up_stays_in_the_past_does_not_make_the_loop_spin(make: Callable[..., Driver]) -> None:
    now = [100.0]

    def clock() -> float:
        now[0] += 0.0001
        return now[0]

    a = make("a", clock=clock)
    stuck = Scripted()
    stuck.wake_at = lambda: 0.0  # type: ignore[method-assign]
    a.host("one", stuck)
    for _ in range(100):
        a.turn(0.0)
    assert 2 <= len(stuck.told) <= 1 + (now[0] - 100.0) / 0.001


def test_stop_from_another_thread_ends_a_loop_that_waits(make: Callable[..., Driver]) -> None:
    a = make("a")
    thread = threading.Thread(target=a.run)
    thread.start()
    a.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_a_contradiction_stops_a_checked_node(make: Callable[..., Driver]) -> None:
    a = make("a", check=True)
    one = Scripted()
    one.told = None  # type: ignore[assignment]
    a.host("one", one)
    with pytest.raises(AssertionError):
        a.turn(0.0)


class Notes:
    def __init__(self) -> None:
        self.told: list[tuple[str, float, Event, list[Effect]]] = []

    def record(self, address: str, now: float, event: Event, effects: list[Effect]) -> None:
        self.told.append((address, now, event, effects))


def test_what_was_handled_is_recorded_with_its_effects(make: Callable[..., Driver]) -> None:
    a = make("a", clock=lambda: 7.0)
    notes = Notes()
    a.recorders["journal"] = notes
    a.host("one", Scripted(pass_on("two")))
    a.host("two", Scripted())
    bring(a, Letter("one", Cancelled([1]), ()))
    assert notes.told == [("one", 7.0, Cancelled([1]), [Send("two", Cancelled([1]))]), ("two", 7.0, Cancelled([1]), [])]


def test_letters_are_on_their_way_before_anything_is_counted_and_a_meter_that_fails_stops_nothing(
    make: Callable[..., Driver],
) -> None:
    a, b = make("a"), make("b")
    seen: list[tuple[Event, list[Effect], int]] = []

    class Counter:
        def record(self, event: Event, effects: list[Effect], _now: float) -> None:
            seen.append((event, effects, a.mailbox.sent))
            raise ZeroDivisionError

    far = Scripted()
    a.host("one", Scripted(pass_on("far")), meter=Counter())
    b.host("far", far)
    bring(a, Letter("one", Cancelled([1]), ()))
    assert seen == [(Cancelled([1]), [Send("far", Cancelled([1]))], 1)]
    assert a.faults == 1
    until(lambda: far.told, a, b)


class Broken:
    """A source that fails after its first letter."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def collect(self, _now: float) -> Iterator[Delivery]:
        yield Letter("one", Cancelled([1]), ()), ()
        raise RuntimeError("no more")


def test_what_a_source_gave_before_it_failed_is_delivered(make: Callable[..., Driver]) -> None:
    a, one = make("a"), Scripted()
    a.host("one", one)
    bell: EventQueue[None] = EventQueue()
    a.listen(Broken(bell.handle))
    bell.wake()
    a.turn(5.0)
    assert one.told == [Cancelled([1])]
    assert a.faults == 1


def test_words_that_cannot_be_followed_cost_themselves_only(make: Callable[..., Driver]) -> None:
    a, b = make("a"), make("b")
    heard: list[ControlWord] = []

    def follow(word: ControlWord) -> None:
        heard.append(word)
        raise KeyError("nobody")

    a.on_word = follow
    for name in ("first", "second"):
        b.mailbox.say("a", Up(name))
    until(lambda: len(heard) == 2, a)
    assert a.faults == 2


def test_an_effect_that_fails_costs_no_other_effect_of_its_event(make: Callable[..., Driver]) -> None:
    a = make("a")
    carried: list[Effect] = []

    def carry(effect: Effect, _now: float) -> None:
        carried.append(effect)
        raise OSError("not now")

    two = Scripted()
    a.host("one", Scripted(lambda _: [Load(0, 0), Send("two", Drain()), Load(0, 1), Send("two", Tick())]), carry=carry)
    a.host("two", two)
    bring(a, Letter("one", Cancelled([1]), ()))
    assert carried == [Load(0, 0), Load(0, 1)]
    assert two.told == [Drain(), Tick()]
    assert a.faults == 2


def test_a_journal_that_cannot_be_written_costs_no_effect_and_is_told_once(
    make: Callable[..., Driver], caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def record(self, *_: object) -> None:
            raise OSError("no space left on device")

    a, two, healthy = make("a"), Scripted(), Notes()
    a.recorders |= {"journal": Full(), "recording": healthy}
    a.host("one", Scripted(pass_on("two")))
    a.host("two", two)
    for number in range(3):
        bring(a, Letter("one", Cancelled([number]), ()))
    assert two.told == [Cancelled([number]) for number in range(3)]
    assert a.faults == 1
    assert caplog.text.count("the journal cannot be written") == 1
    assert len(healthy.told) == 6, "what keeps something else goes on"
    (trouble,) = a.troubles.news()
    assert (trouble.process, trouble.kind, trouble.count) == ("a", "journal", 1)
    assert trouble.said.endswith("requests are served on: no space left on device")


def test_an_actor_that_cannot_say_when_to_wake_and_a_failing_end_of_burst_leave_the_loop_alive(
    make: Callable[..., Driver],
) -> None:
    a, one = make("a"), Scripted()

    def fail() -> Any:
        raise ZeroDivisionError

    one.wake_at = fail  # type: ignore[method-assign]
    a.after_burst = fail
    a.host("one", one)
    bring(a, Letter("one", Cancelled([1]), ()))
    assert Cancelled([1]) in one.told
    assert a.faults > 1
    assert len(one.told) < 5, "it does not spin"

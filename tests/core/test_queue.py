"""The queue: deadline order, and which items a batch takes, leaves or drops, against a plain restatement of the rule."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from loki_rl.core.messages import Family
from loki_rl.core.queue import DeadlineQueue

SLOW = (0.0, 0.010, 0.014, 0.020, 0.030)
PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


class Waiting(Struct):
    """An item as a test pushes it."""

    soft: float
    hard: float


def milliseconds(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda ms: ms / 1000)


@st.composite
def waiting(draw: st.DrawFn) -> Waiting:
    soft = draw(milliseconds(0, 60))
    return Waiting(soft, soft + draw(milliseconds(0, 30)))


def push(queue: DeadlineQueue, number: int, soft: float, hard: float) -> None:
    """An item that should end at once when it comes: its deadlines are what it says."""
    queue.push([Family(number, soft, hard, 0)], 0.0, 0.0)


def filled(items: list[Waiting]) -> DeadlineQueue:
    queue = DeadlineQueue()
    for number, item in enumerate(items):
        push(queue, number, item.soft, item.hard)
    return queue


def in_order(items: list[Waiting]) -> list[int]:
    return sorted(range(len(items)), key=lambda number: (items[number].soft, number))


@PROPERTY
@given(st.lists(waiting(), max_size=12), st.integers(1, 4))
def test_items_leave_by_soft_deadline_then_in_order_of_arrival(items: list[Waiting], cap: int) -> None:
    queue = filled(items)
    left = []
    while len(queue):
        left += [item.id for item in queue.take(cap)]
    assert left == in_order(items)


@PROPERTY
@given(
    st.lists(waiting(), max_size=12), st.integers(1, 4), milliseconds(0, 40), st.none() | milliseconds(1, 12), st.booleans()
)
def test_a_batch_is_the_first_items_that_it_would_serve_in_time(
    items: list[Waiting], cap: int, now: float, rescue_s: float | None, soft_rule: bool
) -> None:
    """Too late for this batch: left if another variant can still serve it, else dropped. Nothing behind a full batch is
    looked at, and the batch is not made smaller to save anything."""
    queue = filled(items)
    finish = now + SLOW[min(cap, len(items))]
    batch: list[int] = []
    dropped: list[int] = []
    for number in in_order(items):
        limit = items[number].soft if soft_rule else items[number].hard
        if len(batch) == cap:
            break
        if finish <= limit:
            batch.append(number)
        elif rescue_s is None or now + rescue_s > limit:
            dropped.append(number)
    made = queue.form(cap, SLOW, now, lambda: inf if rescue_s is None else rescue_s, soft_rule)
    assert ([item.id for item in made[0]], [item.id for item in made[1]]) == (batch, dropped)
    rest = [number for number in in_order(items) if number not in {*batch, *dropped}]
    assert queue.known.keys() == {*rest, *batch}, "what is in a worker's hands stays known, what is dropped does not"
    assert [item.id for item in queue.take(len(items))] == rest


def test_dropping_preserves_the_batch() -> None:
    """One urgent item must not turn batches of four into batches of one: that is how an overload becomes a collapse."""
    queue = filled([Waiting(0.015, 0.015), *[Waiting(0.050, 0.050)] * 4])
    batch, dropped = queue.form(4, SLOW, 0.0, lambda: inf, soft_rule=False)
    assert ([item.id for item in batch], [item.id for item in dropped]) == ([1, 2, 3, 4], [0])


def test_a_repeat_is_ignored_while_the_item_waits_and_while_a_worker_has_it() -> None:
    queue = filled([Waiting(0.5, 0.6)])
    push(queue, 0, 0.1, 0.2)
    assert len(queue) == 1
    taken = queue.take(1)
    push(queue, 0, 0.1, 0.2)
    assert len(queue) == 0
    queue.forget(taken)
    assert not queue.known


def test_items_put_back_have_their_old_place() -> None:
    queue = filled([Waiting(0.3, 0.3), Waiting(0.1, 0.1), Waiting(0.2, 0.2), Waiting(0.1, 0.1)])
    queue.put_back(queue.take(3))
    assert [item.id for item in queue.take(4)] == [1, 3, 2, 0]


def test_expired_items_leave_from_the_head() -> None:
    queue = filled([Waiting(0.1, 0.1), Waiting(0.2, 0.2), Waiting(0.3, 0.4)])
    assert [item.id for item in queue.expire(0.2)] == [0, 1]
    assert queue.expire(0.3) == []
    assert queue.known.keys() == {2}


def test_every_item_of_a_request_can_be_taken_out() -> None:
    queue = DeadlineQueue()
    for number in (0b000, 0b001, 0b010, 0b011, 0b100):
        push(queue, number, 1.0 - number, 2.0)
    assert sorted(item.id for item in queue.remove({0b00, 0b10}, root_bits=1)) == [0b000, 0b001, 0b100]
    assert [item.id for item in queue.take(5)] == [0b011, 0b010]


def test_the_newest_item_is_the_one_that_came_last_not_the_one_with_most_time() -> None:
    """One client with an hour of patience must not hide an overload from all others."""
    queue = filled([Waiting(3600.0, 3600.0), Waiting(0.2, 0.2)])
    assert queue.newest_soft == 0.2

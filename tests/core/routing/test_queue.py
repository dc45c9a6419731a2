"""The queue: deadline order, and which items a batch takes, leaves or drops, against a plain restatement of the rule."""

from __future__ import annotations

from collections import Counter
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from loki_rl.core.pipeline import PATH_BITS, root_of
from loki_rl.core.requests.items import Family
from loki_rl.core.routing.queue import DeadlineQueue, Entry

SLOW = (0.0, 0.010, 0.014, 0.020, 0.030)
PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


class Waiting(Struct):
    """A family as a test pushes it."""

    soft: float
    hard: float
    count: int = 1


def milliseconds(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda ms: ms / 1000)


@st.composite
def waiting(draw: st.DrawFn) -> Waiting:
    soft = draw(milliseconds(0, 60))
    return Waiting(soft, soft + draw(milliseconds(0, 30)), draw(st.integers(1, 5)))


BITS = 3  # for the number of an item in its family


def push(queue: DeadlineQueue, number: int, one: Waiting) -> None:
    """Items that should end at once when they come: their deadlines are what it says."""
    queue.push([Family(number << BITS, one.soft, one.hard, 0, None, one.count)], 0.0, 0.0, 0.0)


def filled(families: list[Waiting]) -> DeadlineQueue:
    queue = DeadlineQueue(0, BITS)
    for number, one in enumerate(families):
        push(queue, number, one)
    return queue


def in_order(families: list[Waiting]) -> list[int]:
    """Every item; siblings behind each other."""
    order = sorted(range(len(families)), key=lambda number: (families[number].soft, number))
    return [(number << BITS) + place for number in order for place in range(families[number].count)]


def ids(entries: list[Entry]) -> list[int]:
    return [entry.family.id + place for entry in entries for place in range(entry.family.count)]


def firsts(entries: list[Entry]) -> list[int]:
    return [item >> BITS for item in ids(entries)]


@PROPERTY
@given(st.lists(waiting(), max_size=12), st.integers(1, 4))
def test_items_leave_by_soft_deadline_then_in_order_of_arrival(families: list[Waiting], cap: int) -> None:
    queue = filled(families)
    left = []
    while len(queue):
        left += ids(queue.take(cap))
    assert left == in_order(families)


@PROPERTY
@given(
    st.lists(waiting(), max_size=8), st.integers(1, 4), milliseconds(0, 40), st.none() | milliseconds(1, 12), st.booleans()
)
def test_a_batch_is_the_first_items_that_it_would_serve_in_time(
    families: list[Waiting], cap: int, now: float, rescue_s: float | None, soft_rule: bool
) -> None:
    """Too late for this batch: left if another variant can still serve it, else dropped. Nothing behind a full batch is
    looked at, and the batch is not made smaller to save anything."""
    queue = filled(families)
    finish = now + SLOW[min(cap, len(queue))]
    batch: list[int] = []
    dropped: list[int] = []
    for item in in_order(families):
        one = families[item >> BITS]
        limit = one.soft if soft_rule else one.hard
        if len(batch) == cap:
            break
        if finish <= limit:
            batch.append(item)
        elif rescue_s is None or now + rescue_s > limit:
            dropped.append(item)
    made = queue.form(cap, SLOW, now, lambda: inf if rescue_s is None else rescue_s, soft_rule)
    assert (ids(made[0]), ids(made[1])) == (batch, dropped)
    rest = [item for item in in_order(families) if item not in {*batch, *dropped}]
    known = Counter(item >> BITS for item in (*rest, *batch))
    assert queue.known == known, "what is in a worker's hands stays known, what is dropped does not"
    queue.put_back(made[0])
    assert ids(queue.take(100)) == [item for item in in_order(families) if item not in dropped]


def test_dropping_preserves_the_batch() -> None:
    """One urgent item must not turn batches of four into batches of one: that is how an overload becomes a collapse."""
    queue = filled([Waiting(0.015, 0.015), *[Waiting(0.050, 0.050)] * 4])
    batch, dropped = queue.form(4, SLOW, 0.0, lambda: inf, soft_rule=False)
    assert (firsts(batch), firsts(dropped)) == ([1, 2, 3, 4], [0])


def test_a_repeat_is_ignored_while_any_of_the_family_waits_or_a_worker_has_it() -> None:
    queue = filled([Waiting(0.5, 0.6, 2)])
    again = Waiting(0.1, 0.2, 2)
    push(queue, 0, again)
    assert len(queue) == 2
    taken = queue.take(1)
    push(queue, 0, again)
    assert len(queue) == 1
    queue.forget(taken)
    push(queue, 0, again)
    assert len(queue) == 1
    queue.forget(queue.take(1))
    assert not queue.known


def test_items_put_back_have_their_old_place() -> None:
    queue = filled([Waiting(0.3, 0.3), Waiting(0.1, 0.1), Waiting(0.2, 0.2), Waiting(0.1, 0.1)])
    queue.put_back(queue.take(3))
    assert firsts(queue.take(4)) == [1, 3, 2, 0]


def test_expired_items_leave_from_the_head() -> None:
    queue = filled([Waiting(0.1, 0.1), Waiting(0.2, 0.2, 2), Waiting(0.3, 0.4)])
    assert firsts(queue.expire(0.2)) == [0, 1, 1]
    assert queue.expire(0.3) == []
    assert (queue.known, len(queue)) == ({2: 1}, 1)


def test_every_item_of_a_request_can_be_taken_out() -> None:
    queue = DeadlineQueue(0, BITS)
    for number, root in enumerate((0, 0, 1, 1, 2)):
        queue.push([Family((root << PATH_BITS) + (number << BITS), 1.0 - number, 2.0, 0)], 0.0, 0.0, 0.0)
    assert sorted(map(root_of, ids(queue.remove({0, 2})))) == [0, 0, 2]
    assert list(map(root_of, ids(queue.take(5)))) == [1, 1]


def test_items_of_several_lanes_leave_in_one_order() -> None:
    queue = DeadlineQueue(0, BITS)
    queue.push([Family(number << BITS, 0.1 * number, 9.0, number % 2, None, 2) for number in range(4)], 0.0, 0.0, 0.0)
    queue.arrange({1: 1}, 2)
    assert (queue.sizes, queue.filled()) == ([4, 4], [0, 1])
    assert ids(queue.take(3)) == [0, 1, 8]
    assert (queue.sizes, len(queue)) == ([2, 3], 5)
    assert ids(queue.take(9, lanes=[1])) == [9, 24, 25]


def test_the_newest_item_is_the_one_that_came_last_not_the_one_with_most_time() -> None:
    """One client with an hour of patience must not hide an overload from all others."""
    queue = filled([Waiting(3600.0, 3600.0), Waiting(0.2, 0.2)])
    assert queue.newest_soft == 0.2

"""The journal: a recorded run replays to identical effects, and the first difference is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from math import inf
from types import MethodDescriptorType
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from loki_rl.core import journal
from loki_rl.core.effects import Drop, Effect, Send, effects_decoder
from loki_rl.core.journal import JournalEntry, JournalError, Mismatch, Recorder
from loki_rl.core.messages import Arrived, Event, Execute, encoder
from loki_rl.core.options import ClusterOptions, Routing
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan, Snapshot
from loki_rl.core.routing.credits import Kind, Puller
from loki_rl.core.routing.pull_router import PullRouter
from loki_rl.core.routing.queue import DeadlineQueue
from loki_rl.core.routing.token_buckets import TokenBuckets
from loki_rl.env.world import World, run

MS = 0.001


def latency(first: float, each: float) -> dict[int, Latency]:
    times = {n: (first + (n - 1) * each) * MS for n in (1, 2, 4, 8)}
    return {n: Latency(s, 1.1 * s, 1.2 * s) for n, s in times.items()}


def pair(**fanout: float) -> tuple[Variant, ...]:
    fine = Variant("fine", 0.9, latency(8, 5), fanout, load_s=0.5)
    return (Variant("rough", 0.5, latency(4, 1), fanout, load_s=0.5), fine)


PIPELINE = Pipeline(
    name="fork",
    slo_s=0.1,
    tasks=(Task("find", pair(read=2.0), entry=1.0), Task("read", pair(), parent="find")),
    leaf_weights={"read": 1.0},
    path_accuracy={("rough", "fine"): 0.6},
)
OPTIONS = ClusterOptions(PIPELINE, servers=4, seed=5, interval_s=1.0)


def plan(**replicas: int) -> Plan:
    places = tuple(Placement(task, name, 8, count) for key, count in replicas.items() for task, name in [key.split("_")])
    flows = {"find": {"rough": 0.5, "fine": 0.5}, "read": {"rough": 0.5, "fine": 0.5}}
    return Plan("accuracy", places, 4, 0.5, 1.0, 100.0, 100.0, {"find": 0.5, "read": 1.0}, flows)


PLANS = (plan(find_rough=1, find_fine=1, read_rough=1, read_fine=1), plan(find_fine=2, read_fine=2))


@cache
def recorded(routing: Routing = "pull") -> tuple[bytes, ...]:
    """A run of the twin under overload, with swaps, drops and refusals: one chunk per record."""
    chunks: list[bytes] = []
    plans = iter([PLANS[0], PLANS[1], PLANS[0], *PLANS])
    last = PLANS[0]

    def decide(_: Snapshot) -> Plan:
        nonlocal last
        last = next(plans, last)
        return last

    options = replace(OPTIONS, max_inflight=25, routing=routing)
    world = World(options, decide, start=-2.0)
    world.record = Recorder(chunks.append, options, dict.fromkeys(world.slots, 0)).record
    run(world, [k / 450 for k in range(1350)], duration_s=3.0, settle_s=2.0)
    return tuple(chunks)


def entries() -> list[JournalEntry]:
    return list(journal.read(recorded())[1])


def mismatch() -> Mismatch:
    found = journal.replay(recorded())
    assert isinstance(found, Mismatch), "the change was not noticed"
    return found


def test_a_run_replays_to_identical_effects() -> None:
    assert journal.replay(recorded(), check=True) == len(recorded()) - 1 > 5000
    outcomes = {int(end) for entry in entries() if entry.address == "gateway" for end in _outcomes(entry)}
    assert outcomes >= {0, 2, 3}, "the run has ok, dropped and rejected requests"


def _outcomes(entry: JournalEntry) -> Iterator[int]:
    for effect in effects_decoder.decode(entry.effects):
        if type(effect).__name__ == "Reply":
            yield effect.outcome  # type: ignore[union-attr]


def test_a_run_by_routing_tables_replays_as_well() -> None:
    assert journal.replay(recorded("table"), check=True) == len(recorded("table")) - 1 > 1000


def test_how_the_bytes_are_cut_does_not_matter() -> None:
    whole = b"".join(recorded()[:200])
    assert journal.replay([whole]) == 199
    assert journal.replay(whole[k : k + 7] for k in range(0, len(whole), 7)) == 199


# -- one effect altered -----------------------------------------------------------------------------------------------------


def altered(index: int, change: Callable[[list[Effect]], list[Effect]]) -> list[bytes]:
    """The journal with the effects of one entry changed."""
    entry = entries()[index]
    effects = change(effects_decoder.decode(entry.effects))
    blob = encoder.encode(msgspec.structs.replace(entry, effects=msgspec.Raw(encoder.encode(effects))))
    chunks = list(recorded())
    chunks[index + 1] = len(blob).to_bytes(journal.LENGTH_BYTES, "big") + blob
    return chunks


def with_batch(nth: int) -> int:
    """The nth entry in which a router gives a batch."""
    found = [n for n, entry in enumerate(entries()) if entry.address == "router:1" and _gives(entry)]
    return found[nth]


def _gives(entry: JournalEntry) -> bool:
    return any(isinstance(e, Send) and isinstance(e.message, Execute) for e in effects_decoder.decode(entry.effects))


def _without_last(effects: list[Effect]) -> list[Effect]:
    return effects[:-1]


def _twice(effects: list[Effect]) -> list[Effect]:
    return [*effects, effects[-1]]


def _smaller(effects: list[Effect]) -> list[Effect]:
    send = effects[-1]
    assert isinstance(send, Send)
    assert isinstance(send.message, Execute)
    batch = send.message
    return [*effects[:-1], Send(send.to, Execute(batch.batch, batch.variant, batch.families[:-1]))]


@pytest.mark.parametrize("change", [_without_last, _twice, _smaller])
@pytest.mark.parametrize("nth", [0, 17])
def test_one_altered_effect_is_found_where_it_is(change: Callable[[list[Effect]], list[Effect]], nth: int) -> None:
    index = with_batch(nth)
    found = journal.replay(altered(index, change))
    assert isinstance(found, Mismatch)
    entry = entries()[index]
    assert (found.index, found.address, found.now) == (index, "router:1", entry.now)
    assert str(found).startswith(f"entry {index}, router:1 at {entry.now:.6f} s, ")
    assert found.recorded != found.replayed


def test_the_first_of_two_alterations_is_named() -> None:
    index = with_batch(3)
    chunks = altered(index, _without_last)
    chunks[with_batch(9) + 1] = altered(with_batch(9), _twice)[with_batch(9) + 1]
    found = journal.replay(chunks)
    assert isinstance(found, Mismatch)
    assert found.index == index


# -- one rule altered -------------------------------------------------------------------------------------------------------

alterable = pytest.mark.skipif(
    isinstance(PullRouter._next, MethodDescriptorType), reason="the actors are machine code, whose rules cannot be altered"
)


@alterable
def test_one_batch_smaller_by_one_item_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule differs for a single batch: the 30th of the second task."""
    form, calls = DeadlineQueue.form, 0

    def other(self: DeadlineQueue, cap: int, *rest: Any) -> tuple[list[Any], list[Any]]:
        nonlocal calls
        batch, dropped = form(self, cap, *rest)
        calls += 1
        if calls != 30 or len(batch) < 2:
            return batch, dropped
        self.put_back(batch[-1:])
        return batch[:-1], dropped

    monkeypatch.setattr(DeadlineQueue, "form", other)
    found = mismatch()
    assert found.address.startswith("router:")
    there = next(e for e in found.recorded if isinstance(e, Send) and isinstance(e.message, Execute))
    here = next(e for e in found.replayed if isinstance(e, Send) and isinstance(e.message, Execute))
    assert here.message.families == there.message.families[:-1]  # type: ignore[union-attr]
    assert str(there.message) in str(found)
    monkeypatch.undo()
    before = list(recorded()[: found.index + 1])
    assert journal.replay(before) == found.index, "all before it agrees"


def _least_accurate_first(actor: PullRouter, unable: set[Kind], _standing: frozenset[int]) -> Puller | None:
    able = [puller for puller in actor.pullers.idle.values() if puller.kind not in unable]
    return max(able, key=lambda puller: (actor.rank[puller.variant], -puller.number), default=None)


RULES: dict[str, tuple[type, str, object]] = {
    "least accurate first": (PullRouter, "_next", _least_accurate_first),
    "hard rule alone": (PullRouter, "_overloaded", lambda _self, _now: False),
    "no rescue": (PullRouter, "_rescue_s", lambda _self, _variant, _overloaded: inf),
    "never barred": (TokenBuckets, "bars", lambda _self, _lane, _variant, _now: False),
}


@alterable
@pytest.mark.parametrize("rule", RULES)
def test_one_altered_rule_is_found_at_its_first_difference(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, other = RULES[rule]
    monkeypatch.setattr(owner, name, other)
    found = mismatch()
    assert found.address.startswith("router:")
    assert f"entry {found.index}, {found.address} at " in str(found)


# -- not a journal ----------------------------------------------------------------------------------------------------------


def test_what_is_not_a_journal_is_told_so() -> None:
    head, entry = recorded()[:2]
    other = encoder.encode(journal.Head(99, OPTIONS, {}))
    cases: list[tuple[list[bytes], str]] = [
        ([], "the journal is empty"),
        ([b"\x00\x00\x00\x03abc"], "not a journal"),
        ([len(other).to_bytes(4, "big") + other], "the journal has version 99, this program reads 4"),
        ([head, entry[:-1]], "the journal ends in the middle of a record"),
        ([head, entry, b"\x00"], "the journal ends in the middle of a record"),
        ([head, entry[:4] + b"\xc1" * (len(entry) - 4)], "not a journal"),
    ]
    for chunks, message in cases:
        with pytest.raises(JournalError, match=message):
            journal.replay(chunks)


def test_an_entry_whose_event_is_damaged_or_whose_actor_is_unknown_is_told_so() -> None:
    head = recorded()[0]

    def put(entry: JournalEntry) -> list[bytes]:
        blob = encoder.encode(entry)
        return [head, len(blob).to_bytes(4, "big") + blob]

    nothing = msgspec.Raw(encoder.encode([]))
    with pytest.raises(JournalError, match="not a journal"):
        journal.replay(put(JournalEntry("gateway", 0.0, msgspec.Raw(encoder.encode(["Nonsense", 1])), nothing)))
    with pytest.raises(JournalError, match="entry 0 is for 'router:9', which the journal does not begin with"):
        journal.replay(put(JournalEntry("router:9", 0.0, msgspec.Raw(encoder.encode(Arrived([], []))), nothing)))


def test_incarnations_are_part_of_the_journal() -> None:
    chunks: list[bytes] = []
    recorder = Recorder(chunks.append, OPTIONS, {"worker:0": 7})
    found = next(entry for entry in entries() if entry.address == "worker:0")
    event: Event = msgspec.msgpack.decode(found.event, type=Event)
    recorder.record("worker:0", found.now, event, effects_decoder.decode(found.effects))
    difference = journal.replay(chunks)
    assert isinstance(difference, Mismatch), "a worker in its seventh life signs otherwise"


def test_events_and_effects_come_back_as_they_were() -> None:
    """One of each kind that the run has; and time never runs backwards for one actor."""
    seen: set[str] = set()
    times: dict[str, list[float]] = {}
    for entry in entries():
        event = msgspec.msgpack.decode(entry.event, type=Event)
        seen.add(type(event).__name__)
        assert encoder.encode(event) == bytes(entry.event)
        times.setdefault(entry.address, []).append(entry.now)
    assert len(seen) >= 16, seen
    assert all(a <= b for moments in times.values() for a, b in pairwise(moments))
    assert any(isinstance(e, Drop) for entry in entries() for e in effects_decoder.decode(entry.effects))

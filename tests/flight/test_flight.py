"""What is sifted of a run adds up with its ledger, and the file gives back what was put in, whatever is cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.env.simulate import Simulation, simulate
from loki_rl.files.config import load_pipeline
from loki_rl.flight.columns import Collector, Flight, read_flight
from loki_rl.flight.file import VERSION, FlightError, Head, Tail, Writer, begin
from loki_rl.flight.packing import EXACT, LONG, NUMBERS, grouped, pack, unpack
from loki_rl.flight.rows import Answer, AnyRow, Begun, Row, Service
from loki_rl.flight.sifter import Sifter

PIPELINE = load_pipeline("traffic").pipeline
CLUSTER = ClusterOptions(PIPELINE, 4, interval_s=1.0)
HEAD = Head(VERSION, CLUSTER, "", "here", 0.0, 0.0)


@pytest.fixture(scope="module")
def flown() -> tuple[Simulation, list[AnyRow]]:
    rows: list[AnyRow] = []
    policy = make_policy("exact", PIPELINE, PolicyOptions(servers=4, initial_rps=60.0))
    times = np.sort(np.random.default_rng(3).uniform(0.0, 20.0, 2000))
    done = simulate(CLUSTER, policy.decide, times, 20.0, record=Sifter(rows.append, PIPELINE).record)
    return done, rows


def columns(rows: list[AnyRow]) -> Flight:
    collector = Collector()
    collector.add(rows)
    return collector.flight()


def test_a_run_adds_up_with_its_ledger(flown: tuple[Simulation, list[AnyRow]]) -> None:
    done, rows = flown
    flight = columns(rows)
    summary = done.summary
    assert flight.origin == 0.0
    assert len(flight.arrivals) == len(flight.answers) == summary.arrivals == 2000
    ok = flight.answers[flight.answers["outcome"] == Outcome.OK]
    assert len(ok) == summary.ok
    assert ok["accuracy"].mean() == pytest.approx(summary.accuracy)
    assert len(flight.services) == len(flight.handed) == len(flight.returned)
    assert flight.services["items"].sum() >= done.tally.executions
    assert np.allclose(flight.services["end"] - flight.services["begin"], flight.services["seconds"])
    assert {plan.mode for plan in flight.plans} - {None}
    assert flight.usage["servers"].max() <= 4
    assert len(flight.loads) > 0


def test_a_file_gives_back_what_was_put_in(flown: tuple[Simulation, list[AnyRow]], tmp_path: Path) -> None:
    rows = flown[1]
    begin(tmp_path / "flight", HEAD)
    one, other = (Writer(tmp_path / "flight") for _ in range(2))
    for number, row in enumerate(rows):
        (one, other)[number % 2].put(row)
        (one, other)[number % 2].tick(0.01 * number)
    one.close()
    other.close()
    head, flight = read_flight(tmp_path / "flight")
    assert head == HEAD
    written = columns(rows)
    for name in ("arrivals", "answers", "handed", "services", "returned", "lost", "loads", "usage"):
        mine, its = getattr(flight, name), getattr(written, name)
        assert mine.dtype == its.dtype
        for column in its.dtype.names:
            assert np.allclose(np.sort(mine[column]), np.sort(its[column]), rtol=0.0, atol=1.1e-6)
    assert sorted(map(repr, flight.queues)) == sorted(map(repr, written.queues))
    assert flight.plans == written.plans


def one_of(kind: type[Row]) -> st.SearchStrategy[AnyRow]:
    """Times that a clock of microseconds shows; what is no time, as it comes."""
    times = st.integers(-(10**9), 10**13).map(lambda ticks: ticks / 1e6)
    kinds = {"int": st.integers(-(2**31), 2**31 - 1), "bool": st.booleans(), "Outcome": st.sampled_from(Outcome)}
    fields = {name: kinds.get(kind.__annotations__[name], times) for name in kind.__struct_fields__}
    fields |= {name: st.floats(allow_nan=False) for name in EXACT if name in fields}
    fields |= {name: st.integers(0, 2**60) for name in LONG if name in fields}
    return st.builds(kind, **fields)  # type: ignore[arg-type]


@given(st.lists(st.one_of([one_of(kind) for kind in NUMBERS]), max_size=30))
def test_columns_give_back_every_row(rows: list[AnyRow]) -> None:
    there, back = grouped(rows), unpack(pack(rows))
    assert there.columns.keys() == back.columns.keys()
    assert all(np.array_equal(np.sort(mine), np.sort(back.columns[kind])) for kind, mine in there.columns.items())


@given(cut=st.integers(0, 400), torn=st.binary(max_size=40))
def test_a_torn_chunk_costs_itself_alone(cut: int, torn: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("torn") / "flight"
    begin(path, HEAD)
    writer = Writer(path)
    first = path.read_bytes()
    for number in range(100):
        writer.put(Answer(float(number), Outcome.OK, 0.1, 0.9))
    writer.flush()
    second = path.read_bytes()[len(first) :]
    writer.put(Begun(5.0))
    writer.close()
    last = path.read_bytes()[len(first) + len(second) :]
    path.write_bytes(first + second[: min(cut, len(second) - 1)] + torn + last)
    head, flight = read_flight(path)
    assert flight.origin == 5.0
    assert head == HEAD


def test_a_tail_gives_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "flight"
    begin(path, HEAD)
    writer, tail = Writer(path), Tail(path)
    assert list(tail.poll()) == []
    assert tail.head == HEAD
    row = Service(0, 1, 2, 3, 4, 5.0, 6.0, 0.9, False)
    for _ in range(3):
        writer.put(row)
        writer.flush()
        (part,) = tail.poll()
        assert part.columns[Service].tolist() == [astuple(row)]
    assert list(tail.poll()) == []
    # The file goes on where it was removed, as long as somebody writes it.
    path.unlink()
    writer.put(row)
    writer.close()
    assert len(list(tail.poll())) == 1
    tail.close()


def test_a_cut_at_any_byte_costs_what_comes_after_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "flight"
    begin(path, HEAD)
    writer, ends = Writer(path), []
    for number in range(3):
        writer.put(Begun(float(number)))
        writer.flush()
        ends.append(path.stat().st_size)
    writer.close()
    content = path.read_bytes()
    for size in range(path.stat().st_size, ends[0] - 1, -1):
        path.write_bytes(content[:size])
        assert read_flight(path)[1].origin == sum(size >= end for end in ends) - 1


@pytest.mark.parametrize("content", [b"", b"LokiFly1", b"LokiFly1\0\0\0\1\0\0\0\0x", b"no recording"])
def test_what_is_no_recording_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "flight"
    path.write_bytes(content)
    with pytest.raises(FlightError, match="not a recording"):
        read_flight(path)


def test_another_version_is_told(tmp_path: Path) -> None:
    begin(tmp_path / "flight", Head(VERSION + 1, CLUSTER, "", "here", 0.0, 0.0))
    with pytest.raises(FlightError, match=f"of version {VERSION + 1}"):
        read_flight(tmp_path / "flight")

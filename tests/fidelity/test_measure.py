"""The comparison as a whole: a twin beside itself is within every bar, and one that was slower is told from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loki_rl.env.faults import Faults, Slow
from loki_rl.errors import UserError
from loki_rl.fidelity.comparison import block_s, pooled
from loki_rl.fidelity.measure import Fidelity, document, measure
from loki_rl.fidelity.report import table, write_report
from loki_rl.fidelity.twin import overloaded, play, read_run
from loki_rl.fidelity.verdict import EMULATED, REAL, Bars, together, verdict
from loki_rl.reports.statistics import Interval
from tests.fidelity.conftest import Record

SLOW = Faults(slow=tuple(Slow(server, factor=2.5, from_s=10.0, to_s=60.0) for server in range(4)))


@pytest.fixture(scope="module")
def beside(record: Record) -> Fidelity:
    # Few requests in a second, so that single ones decide the tail.
    return measure(record()[1], Bars(p99=30.0), plays=3)


def test_a_twin_beside_itself_is_within_every_bar(beside: Fidelity) -> None:
    assert beside.verdict == "within"
    rows = {row.name: row for row in beside.rows}
    assert {name for name, row in rows.items() if row.verdict} == {"violations", "accuracy", "servers", "p99"}
    assert all(row.difference.low <= row.difference.high for row in beside.rows)
    batch = rows["batch read"]
    assert batch.distance is not None
    assert batch.own_distance is not None
    assert batch.distance < 3 * batch.own_distance + 0.1


def test_a_plane_that_was_slower_is_outside(record: Record) -> None:
    found = measure(record("hardware", faults=SLOW)[1], plays=3)
    assert found.verdict == "outside"
    rows = {row.name: row for row in found.rows}
    assert rows["violations"].verdict == "outside"
    assert rows["violations"].difference.low > 1
    assert rows["p50"].difference.low > 10


def test_the_same_seed_gives_the_same_play(record: Record) -> None:
    _, run = record()
    again = play(run, 100)
    for name in ("arrivals", "answers", "services", "usage"):
        assert np.array_equal(getattr(again, name), getattr(run.flight, name)), name
    other = play(run, 101)
    assert not np.array_equal(other.answers["latency_s"], again.answers["latency_s"])
    assert np.array_equal(other.arrivals, again.arrivals)


def test_what_requests_wished_is_asked_of_the_twin(record: Record) -> None:
    _, run = record()
    wished = run.arrivals.copy()
    wished["priority"] = np.arange(len(wished)) % 3
    wished["min_accuracy"] = 0.4 * (np.arange(len(wished)) % 2)
    played = play(replace(run, arrivals=wished), 1)
    for name in ("priority", "min_accuracy"):
        assert np.array_equal(played.arrivals[name], wished[name])


def test_blocks_reach_as_far_back_as_plans_are_felt(record: Record) -> None:
    cluster = record()[1].cluster
    assert block_s(replace(cluster, interval_s=10.0)) == block_s(cluster) + 9.0


def test_bars_that_were_asked_for_count(beside: Fidelity, record: Record) -> None:
    strict = measure(record()[1], Bars(p50=0.0), plays=1)
    assert {row.name: row.bar for row in strict.rows}["p50"] == 0.0
    assert {row.name: row.bar for row in strict.rows}["accuracy"] == EMULATED.accuracy
    assert beside.rows[0].bar == EMULATED.violations
    assert EMULATED.of("violations", overloaded=True) == EMULATED.overload
    assert REAL.of("batch read", overloaded=False) is None


def test_a_crowd_beyond_the_best_models_is_told(record: Record) -> None:
    _, run = record()
    assert not overloaded(run)
    assert overloaded(replace(run, cluster=replace(run.cluster, servers=2)))


@given(low=st.floats(-10, 10), width=st.floats(0, 10), bar=st.floats(0, 10))
def test_a_verdict_is_within_or_outside_only_where_the_whole_interval_is(low: float, width: float, bar: float) -> None:
    found = verdict(Interval(low, low, low + width), bar)
    inside = [abs(value) <= bar for value in (low, low + width)]
    same_side = low > bar or low + width < -bar
    assert found == ("within" if all(inside) else "outside" if same_side else "inconclusive")


def test_nobody_can_tell_without_an_interval() -> None:
    assert verdict(Interval(0.0, float("nan"), float("nan")), 1.0) == "inconclusive"
    assert together(["within", "inconclusive", "outside"]) == "outside"
    assert together(["within", "inconclusive"]) == "inconclusive"
    assert together(["within"]) == together([]) == "within"


def test_runs_together_say_more_than_one(record: Record) -> None:
    runs = [measure(record("hardware", seed)[1], plays=2).found for seed in (1, 2, 3, 4)]
    widths = [one.difference.high - one.difference.low for run in runs for one in run if one.figure.name == "p50"]
    (together,) = (one for one in pooled(runs) if one.figure.name == "p50")
    assert together.difference.high - together.difference.low < 0.7 * float(np.mean(widths))
    values = [one.difference.value for run in runs for one in run if one.figure.name == "p50"]
    assert together.difference.value == pytest.approx(np.mean(values))


def test_the_report_holds_page_pictures_figures_and_curves(beside: Fidelity, tmp_path: Path) -> None:
    page = write_report(beside, tmp_path)
    assert "twin's own" in page.read_text()
    assert page.with_suffix(".html").read_text().count("data:image/png;base64") == 2
    assert json.loads((tmp_path / "fidelity.json").read_text())["verdict"] == "within"
    curves = {}
    for name in ("plane", "twin"):
        events = EventAccumulator(str(tmp_path / name))
        events.Reload()
        curves[name] = {tag: [one.step for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert curves["plane"] == curves["twin"]
    assert {"serving/accuracy", "serving/demand_rps", "fidelity/queue_read", "fidelity/p99"} <= curves["plane"].keys()
    assert curves["plane"]["serving/accuracy"] == list(range(60))


def test_the_table_fits_a_terminal(beside: Fidelity) -> None:
    console = Console(width=80)
    with console.capture() as seen:
        console.print(table(beside))
    shown = seen.get()
    assert "…" not in shown
    assert all(row.name in shown for row in beside.rows)
    assert "Verdict: within" in shown


def test_what_a_run_lacks_is_no_figure(record: Record) -> None:
    _, run = record()
    names = {row["name"] for row in document(measure(run, plays=1))["figures"]}  # type: ignore[attr-defined]
    assert "p99" in names
    unserved = replace(run.flight, answers=run.flight.answers[:0])
    rows = {row.name: row for row in measure(replace(run, flight=unserved), plays=1).rows}
    assert rows["violations"].plane == 100.0
    assert rows["p99"].verdict == "inconclusive"


def test_what_is_no_run_is_told(tmp_path: Path, folder: Path) -> None:
    assert read_run(folder).length_s == read_run(folder / "flight").length_s == 60.0
    with pytest.raises(UserError, match="cannot be read"):
        read_run(tmp_path)

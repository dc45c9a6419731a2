"""What a gateway writes down each second comes back as it was, whatever became of the last bytes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.core.messages import Outcome, Restored
from loki_rl.core.plan import Plan
from loki_rl.core.requests.ledger import PlanRecord, Tally
from loki_rl.serving.gateway.ledger_snapshot import FINAL_S, RETRY_S, SnapshotWriter, Standing, read_snapshot
from loki_rl.serving.state import Requests

PLAN = Plan("hardware", (), 0, 1.0, 1.0, 1.0, 1.0, {"cut": 0.5}, {})


def standing(second: int) -> Standing:
    stands = Restored(3.5, second, 2, 17, False, b"")
    return Standing(stands, True, 1.25, 4, 5, Requests(arrivals=7, outcomes=[6, 0, 0, 0, 0, 0]))


class Kept:
    """A ledger and its file; every second it is written down."""

    def __init__(self, folder: Path, tally: Tally | None = None) -> None:
        self.file = folder / "ledger"
        self.writer = SnapshotWriter(self.file)
        self.tally = Tally() if tally is None else tally
        self.second = max(self.tally.seconds, default=0)

    def live(self, seconds: int, requests: int = 3, plan_each: int = 10, keep: int = 10**9) -> None:
        for _ in range(seconds):
            second = self.second = self.second + 1
            for _ in range(requests):
                self.tally.arrive(second)
                self.tally.close(second, Outcome.OK, 0.01 * (1 + second % 7), 0.9)
            self.tally.second(second - 1).servers = 2
            if second % plan_each == 0:
                self.tally.plans.append(PlanRecord(float(second), PLAN))
            self.tally.trim(second - keep, 1000)
            self.write(second - keep)

    def write(self, oldest: int = 0, now: float | None = None) -> None:
        self.writer.write(standing(self.second), self.tally, oldest, float(self.second) if now is None else now)
        self.settle()

    def settle(self) -> None:
        """Until the thread has done it."""
        until(lambda: self.writer._idle)

    def read(self) -> Tally:
        found = read_snapshot(self.file)
        assert found is not None
        assert found[0] == standing(self.second)
        return found[1]

    @property
    def files(self) -> list[Path]:
        return sorted(self.file.parent.glob("ledger*"))


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.0005)  # between looks at a condition


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.live(3 * FINAL_S)
    kept.tally.arrive(kept.second)
    kept.tally.leaves, kept.tally.leaves_bad, kept.tally.executions = 9, 1, 20
    kept.write()
    assert kept.read() == kept.tally
    assert kept.read().seconds[kept.second].open == 1


def test_a_second_whose_requests_take_long_is_written_down_until_they_end(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.live(5)
    kept.tally.arrive(2)
    kept.live(2 * FINAL_S)
    assert kept.read().seconds[2].open == 1
    kept.tally.close(2, Outcome.LATE, 100.0, 0.0)
    kept.live(2)
    assert kept.read() == kept.tally


def test_a_second_costs_the_same_after_hours(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.live(5 * FINAL_S)
    sizes = [file.stat().st_size for file in kept.files]
    kept.live(1)
    grown = [file.stat().st_size for file in kept.files]
    assert sum(grown) - sum(sizes) < 500
    assert len(kept.files) == 2


def test_another_run_is_another_ledger(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.live(2 * FINAL_S)
    kept.tally, kept.second = Tally(plans=[PlanRecord(0.0, PLAN)]), 0
    kept.live(3)
    assert kept.read() == kept.tally
    assert len(kept.files) == 2


def test_a_later_life_goes_on_and_leaves_nothing_behind(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.live(2 * FINAL_S)
    for _ in range(2):
        kept = Kept(tmp_path, kept.read())
        kept.live(FINAL_S)
        assert kept.read() == kept.tally
        assert len(kept.files) == 2


def test_old_logs_go_and_what_was_summed_up_is_not_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loki_rl.serving.gateway.ledger_snapshot.LOG_BYTES", 5000)
    kept = Kept(tmp_path)
    most = 0
    for _ in range(20):
        kept.live(40, plan_each=300, keep=200)
        found = kept.read()
        assert found.seconds == kept.tally.seconds
        assert (found.earlier, found.earlier_s) == (kept.tally.earlier, kept.tally.earlier_s)
        assert found.plans[-1:] == kept.tally.plans[-1:]
        assert found.arrivals == kept.tally.arrivals == 3 * kept.second
        most = max(most, len(kept.files))
    assert 3 <= len(kept.files) <= most < 12


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 3000), st.binary(max_size=40))
def test_a_torn_tail_is_not_read(tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes) -> None:
    """What was appended after the last snapshot does not belong to it. A snapshot that is not whole is none."""
    kept = Kept(tmp_path_factory.mktemp("torn"))
    kept.live(FINAL_S + 20)
    log = next(file for file in kept.files if file.name[-1].isdigit())
    log.write_bytes(log.read_bytes() + garbage)
    assert kept.read() == kept.tally
    whole = kept.file.read_bytes()
    torn = whole[: cut % len(whole)]
    kept.file.write_bytes(torn)
    assert read_snapshot(kept.file) is None
    kept.file.write_bytes(torn + bytes([whole[len(torn)] ^ 1]) + whole[len(torn) + 1 :])
    assert read_snapshot(kept.file) is None
    kept.writer.close(1.0)


def test_a_damaged_log_costs_its_seconds_only(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.live(FINAL_S + 20)
    log = next(file for file in kept.files if file.name[-1].isdigit())
    data = bytearray(log.read_bytes())
    data[3 * len(data) // 4] ^= 1
    log.write_bytes(data)
    found = kept.read()
    found.validate()
    assert 0 < len(kept.tally.seconds) - len(found.seconds) < 20
    assert found.latencies == kept.tally.latencies


def no_room(folder: Path) -> None:
    (folder / "ledger.new").symlink_to("/dev/full")


def room(folder: Path) -> None:
    (folder / "ledger.new").unlink()


@pytest.mark.parametrize(("take", "give"), [(no_room, room), (Path.rmdir, Path.mkdir)])
def test_a_disk_that_takes_nothing_costs_one_warning_and_later_all_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, take: Callable[[Path], None], give: Callable[[Path], None]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    take(folder)
    kept = Kept(folder)
    with caplog.at_level(logging.WARNING):
        kept.live(5)
        for number in range(6):  # one to try, one to see that it failed
            kept.write(now=kept.second + number * (RETRY_S + 1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be kept for a restart" in caplog.text
    assert kept.writer.failures == 3
    assert read_snapshot(kept.file) is None
    give(folder)
    for number in range(6, 9):
        kept.write(now=kept.second + number * (RETRY_S + 1))
    assert kept.read() == kept.tally


def test_nothing_and_something_else_are_no_snapshot(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path / "ledger") is None
    (tmp_path / "ledger").write_bytes(b"\x00" * 100)
    assert read_snapshot(tmp_path / "ledger") is None

"""What a controller counts gets into its file, whatever the disk does."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from loki_rl.control.demand.history import History
from loki_rl.control.demand.history_file import HistoryError, read_history, write_history
from loki_rl.core.controller import Controller
from loki_rl.core.messages import Begin, Counted
from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import load_pipeline
from loki_rl.serving.controlling import history_keeper
from loki_rl.serving.controlling.history_keeper import EVERY_S, HistoryKeeper
from loki_rl.serving.controlling.policy import wall_clock_s

LINGER_S = 20.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kept" / "history.json"
    path.parent.mkdir()
    write_history(path, History())
    return path


@pytest.fixture
def idle(small: Path) -> Controller:
    return Controller(ClusterOptions(load_pipeline(str(small)).pipeline, 4))


@pytest.fixture
def controller(idle: Controller) -> Controller:
    idle.handle(Begin(1000.0), 1000.0)
    return idle


def count(controller: Controller, first: int, last: int) -> None:
    for second in range(first, last):
        controller.handle(Counted(second, 50 + second % 7), 1000.0 + second + 1)


def test_each_minute_and_at_the_end(file: Path, controller: Controller) -> None:
    keeper = HistoryKeeper(file, controller)
    for second in range(150):
        count(controller, second, second + 1)
        keeper.look(1000.0 + second + 1)
    keeper.close(LINGER_S)
    found = read_history(file)
    assert found.recent == [50 + second % 7 for second in range(150)]
    assert found.until_s == round(1150 + wall_clock_s())
    assert found.seconds > 0


def test_nothing_is_written_between(file: Path, controller: Controller) -> None:
    keeper = HistoryKeeper(file, controller)
    written: list[float] = []
    keeper._write = lambda: written.append(controller.history.counted)  # type: ignore[method-assign]
    for second in range(150):
        count(controller, second, second + 1)
        keeper.look(1000.0 + second + 1)
    assert written == [1, 1 + EVERY_S, 1 + 2 * EVERY_S]


def test_another_life_goes_on_without_counting_twice(file: Path, controller: Controller) -> None:
    for seconds in (90, 130, 250):
        keeper = HistoryKeeper(file, controller)
        count(controller, controller.history.counted, seconds)
        keeper.look(1000.0 + seconds)
        keeper.close(LINGER_S)
    once = History()
    once.extend([50 + second % 7 for second in range(250)], round(1000 + wall_clock_s()))
    assert read_history(file) == once


def test_a_lost_folder_is_counted_and_said_and_fatal_to_nobody(
    file: Path, controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = HistoryKeeper(file, controller)
    file.unlink()
    file.parent.rmdir()
    for minute in range(3):
        count(controller, 61 * minute, 61 * minute + 61)
        keeper.look(1000.0 + 61 * (minute + 1))
    keeper.close(LINGER_S)
    assert keeper.failures == 4
    assert len([record for record in caplog.records if "cannot be kept" in record.message]) == 1


def test_a_folder_that_comes_back_is_written_to(file: Path, controller: Controller) -> None:
    keeper = HistoryKeeper(file, controller)
    file.unlink()
    file.parent.rmdir()
    count(controller, 0, 61)
    keeper.look(1061.0)
    file.parent.mkdir()
    keeper.close(LINGER_S)
    assert len(read_history(file).recent) == 61


def test_a_full_disk_leaves_the_former_file(file: Path, controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_keeper, "replace_file", Mock(side_effect=OSError(28, "No space left on device")))
    keeper = HistoryKeeper(file, controller)
    count(controller, 0, 10)
    keeper.look(1010.0)
    keeper.close(LINGER_S)
    assert keeper.failures == 2
    assert read_history(file) == History()


def test_before_a_run_begins_nothing_is_counted(file: Path, idle: Controller) -> None:
    keeper = HistoryKeeper(file, idle)
    keeper.look(5.0)
    keeper.close(LINGER_S)
    assert read_history(file) == History()


def test_a_file_that_is_none_is_refused(file: Path, controller: Controller) -> None:
    file.write_text("{")
    with pytest.raises(HistoryError):
        HistoryKeeper(file, controller)

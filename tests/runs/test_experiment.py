"""Runs of two experiments never share a folder."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from loki_rl.runs.experiment import FILE, differences, experiment_folder
from loki_rl.runs.options import RunOptions
from loki_rl.runs.tensorboard.event_files import Stream, replace_events

OPTIONS = RunOptions("traffic")


def test_what_differs_in_policy_trace_seed_and_driver_belongs_together(tmp_path: Path) -> None:
    assert experiment_folder(OPTIONS, tmp_path) == tmp_path
    other = replace(OPTIONS, policy="loki", trace="diurnal", seed=7, driver="emulated")
    assert experiment_folder(other, tmp_path) == tmp_path
    assert differences(other, tmp_path) == ""


def test_another_experiment_gets_a_folder_of_its_own_and_finds_it_again(tmp_path: Path) -> None:
    experiment_folder(OPTIONS, tmp_path)
    fast, slow = replace(OPTIONS, rate_scale=10.0), replace(OPTIONS, rate_scale=0.5)
    assert experiment_folder(fast, tmp_path) == tmp_path / "traffic-2"
    assert experiment_folder(slow, tmp_path) == tmp_path / "traffic-3"
    assert experiment_folder(fast, tmp_path) == tmp_path / "traffic-2"
    assert experiment_folder(OPTIONS, tmp_path) == tmp_path
    assert differences(fast, tmp_path) == "rate_scale none there, 10.0 here"


def test_what_another_program_left_there_stays(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"learning_rate": 0.1}')
    assert experiment_folder(OPTIONS, tmp_path) == tmp_path / "traffic-2"
    assert experiment_folder(replace(OPTIONS, slo_ms=100.0), tmp_path) == tmp_path / "traffic-3"
    assert experiment_folder(OPTIONS, tmp_path) == tmp_path / "traffic-2"
    assert differences(OPTIONS, tmp_path) == f"its {FILE} is not of this program"
    assert (tmp_path / FILE).read_text() == '{"learning_rate": 0.1}'


def test_event_files_of_another_program_stay(tmp_path: Path) -> None:
    theirs = tmp_path / "events.out.tfevents.1700000000.host.1.0"
    theirs.write_bytes(b"theirs")
    for _ in range(2):
        replace_events(tmp_path, [])
    Stream(tmp_path).close()
    ours = set(tmp_path.iterdir()) - {theirs}
    assert len(ours) == 1
    assert theirs.read_bytes() == b"theirs"

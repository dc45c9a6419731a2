"""Calls over processes or a Ray cluster: what they return, and what becomes of those whose process or host is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from loki_rl.cli.main import app
from loki_rl.reports.compare import build_cases, compare
from loki_rl.runs import spreading
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import RUNNERS
from loki_rl.runs.spreading import spread


def killed_once(mark: Path, number: int) -> int:
    """Dies as a kernel kills, the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def raised() -> int:
    raise KeyError("nope")


def test_a_thread_of_a_notebook_may_spread_calls() -> None:
    found: list[object] = []
    work = {number: partial(pow, number, 2) for number in (2, 3)}
    asking = threading.Thread(target=lambda: found.extend(spread(work, 2)))
    asking.start()
    asking.join(120)
    assert sorted(map(str, found)) == ["(2, 4)", "(3, 9)"]


def test_a_killed_call_is_made_again_and_all_come_back(ray_address: str, tmp_path: Path) -> None:
    work = {number: partial(killed_once, tmp_path / str(number), number) for number in range(3)}
    assert sorted(spread(work, 1, ray_address)) == [(0, 0), (1, 1), (2, 2)]


def test_a_call_that_always_dies_is_one_sentence(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "RETRIES", 0)
    ((place, end),) = spread({7: killed}, 1, ray_address)
    assert place == 7
    assert str(end).startswith("its process or its host was lost each of 1 times")


def test_what_a_call_raises_is_raised_as_it_is_here(ray_address: str) -> None:
    with pytest.raises(KeyError, match="nope"):
        list(spread({0: raised}, 1, ray_address))


def test_a_comparison_is_the_same_bit_by_bit(run_options: RunOptions, ray_address: str, tmp_path: Path) -> None:
    cases = build_cases(run_options, policies=["static", "exact"], traces=[run_options.trace], seeds=range(2))
    here = compare(cases, RUNNERS, tmp_path / "here", 1)
    there = compare(cases, RUNNERS, tmp_path / "there", cluster=ray_address)
    assert not there.failures
    for one in here.results:
        folder = Path("twin", one.options.policy, one.trace, f"seed{one.options.seed}")
        for name in ("run.json", "seconds.jsonl", "plans.jsonl"):
            assert figures(tmp_path / "here" / folder / name) == figures(tmp_path / "there" / folder / name)


def figures(file: Path) -> list[object]:
    """What a run says, but how long the machine took to plan."""

    def timeless(found: object) -> object:
        if isinstance(found, dict):
            return {name: timeless(one) for name, one in found.items() if not name.endswith("_ms")}
        return [timeless(one) for one in found] if isinstance(found, list) else found

    return (
        [timeless(json.loads(line)) for line in file.read_text().splitlines()]
        if file.suffix == ".jsonl"
        else [timeless(json.loads(file.read_text()))]
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--address", "auto"), "--address is that of a Ray cluster; add --launcher ray"),
        (("--launcher", "ray", "--jobs", "2"), "--launcher ray uses the cores of the cluster; leave --jobs out"),
    ],
)
def test_flags_that_would_not_be_heard(small: Path, tmp_path: Path, flags: tuple[str, ...], says: str) -> None:
    done = CliRunner().invoke(app, ["compare", str(small), "--logdir", str(tmp_path), *flags])
    assert says in str(done.exception)

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loki_rl.serving.engines import hardware
from loki_rl.serving.engines.hardware import HostLoad


def stat(file: Path, *seconds: float) -> None:
    """user, nice, system, idle, iowait, irq, softirq, steal."""
    ticks = " ".join(str(round(one * os.sysconf("SC_CLK_TCK"))) for one in seconds)
    file.write_text(f"cpu  {ticks} 0 0\ncpu0 1 2 3\n", encoding="utf-8")


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hardware, "STAT", tmp_path / "stat")
    return tmp_path / "stat"


def test_what_is_neither_idle_nor_ours_is_the_neighbours(account: Path) -> None:
    stat(account, 1000, 10, 100, 5000, 50, 1, 1, 1)
    counted = HostLoad()
    stat(account, 1300, 10, 200, 5550, 100, 1, 1, 1)  # 400 s of work, 600 s idle
    assert counted.share() == pytest.approx(0.4, abs=0.01)


def test_what_our_own_processes_took_is_not_theirs(account: Path) -> None:
    stat(account, *[0.0] * 8)
    counted = HostLoad()
    before = sum(os.times()[2:4])
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    ours = sum(os.times()[2:4]) - before
    stat(account, ours, 0, 0, ours, 0, 0, 0, 0)
    assert counted.share() < 0.5 * 0.5


def test_where_the_system_does_not_tell_nobody_is_blamed(account: Path) -> None:
    assert not account.exists()
    assert HostLoad().share() == 0.0


def test_what_the_hypervisor_took_is_told_apart(account: Path) -> None:
    stat(account, 1000, 10, 100, 5000, 50, 1, 1, 100)
    counted = HostLoad()
    stat(account, 1000, 10, 100, 5800, 50, 1, 1, 300)
    assert counted.steal() == pytest.approx(0.2, abs=0.01)
    assert counted.share() == pytest.approx(0.2, abs=0.01)

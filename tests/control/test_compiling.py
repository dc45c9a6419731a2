"""What is compiled rather than found is told, once, and its beginning and end to whoever wants to know."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from loki_rl.control.compiled import njit
from loki_rl.control.compiling import MOST, SENTENCE, Compiling

TOY = """
from loki_rl.control.compiled import lean
from loki_rl.control.compiling import compiling
@lean
def inner(x):
    return x + 1
@lean
def outer(x):
    return inner(x) * 2
if __name__ == "__main__":
    compiling.watchers.append(lambda busy: print("busy" if busy else "done"))
    print(outer(1))
    print(outer(1.0))
"""


def test_functions_that_others_call_are_part_of_these(caplog: pytest.LogCaptureFixture) -> None:
    compiling, seen = Compiling(), list[bool]()
    compiling.watchers.append(seen.append)
    for begins in (True, True, False, False, True, False):
        (compiling.begin if begins else compiling.end)()
    assert seen == [True, False, True, False]
    assert [record.getMessage() for record in caplog.records] == [SENTENCE]


def test_it_is_told_how_far_it_is_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    times = count(1000, 3)
    compiling = Compiling(lambda: next(times))
    for _ in range(MOST + 8):
        compiling.begin()
        compiling.end()
    first, second, *_, last = (record.getMessage() for record in caplog.records)
    assert first == SENTENCE
    found = re.fullmatch(rf"compiling: (\d+) of at most {MOST} functions after (\d+) s", second)
    assert found
    assert 0 < int(found[1]) < int(found[2])
    assert re.fullmatch(r"compiling: \d+ functions after \d+ s", last)
    assert len(caplog.records) < MOST


@pytest.mark.skipif(njit is None, reason="numba is not installed: nothing is compiled")
def test_a_process_says_so_once_and_only_where_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, again = (
        subprocess.run([sys.executable, tmp_path / "toy.py"], env=environment, check=True, capture_output=True, text=True)
        for _ in range(2)
    )
    assert first.stdout.split() == ["busy", "done", "4", "busy", "done", "4.0"]
    assert first.stderr == f"{SENTENCE}\n"
    assert again.stdout.split() == ["4", "4.0"]
    assert again.stderr == ""

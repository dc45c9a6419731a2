"""Processes of a launcher: what they import, what they say of themselves, and that none outlives it."""

from __future__ import annotations

import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from loki_rl.serving.process.child import Child, python, wait_for_end
from tests.serving.driving import eventually

FRONT = ("--front", "ipc:///nowhere", "--port", "0")


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Child]:
    """An HTTP front end of a gateway that is not there."""
    child = Child("front", python("loki_rl.serving.edge.http", "--tethered", *FRONT), tmp_path / "log")
    yield child
    child.kill()
    child.reap()


def test_files_of_the_working_folder_do_not_pass_for_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('not the library')\n")
    monkeypatch.chdir(tmp_path)
    child = Child("node", python("loki_rl.serving.process.node", str(tmp_path), "node"), tmp_path / "log")
    assert wait_for_end(child, 60.0)
    assert child.reap() == 1
    assert "plane.json cannot be read" in child.last_words()


def test_a_front_end_gives_signs_of_life_until_it_stands_still(front: Child) -> None:
    eventually(front.pulsed, "no sign of life")
    eventually(front.pulsed, "only one")
    front._process.send_signal(signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{front.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it runs on")
    front.pulsed()
    assert not front.pulsed()


def test_a_child_ends_with_a_launcher_that_has_not_read_its_signs_of_life(front: Child) -> None:
    """Such a socket closes with a reset, not with an end of file."""
    poll = select.poll()
    poll.register(front._tie, select.POLLIN)
    assert poll.poll(60_000)
    front._tie.close()
    assert wait_for_end(front, 60.0)


def test_what_a_process_said_last_is_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    child = Child("node", python("loki_rl.serving.process.node", "--help"), log)
    assert wait_for_end(child, 60.0)
    log.write_bytes(b"\xff" * 10_000 + b"\nword 1\n\n  word 2\n")
    assert child.last_words().endswith(" | word 1 | word 2")
    log.write_text("")
    assert child.last_words() == "it said nothing"
    log.unlink()
    assert child.last_words().startswith("its log cannot be read: ")
    assert child.reap() == 0

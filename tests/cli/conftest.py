"""Typing commands, in this process and in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from loki_rl.cli import main as cli

PIXEL = (Path(__file__).parents[1] / "data" / "pixel.png").read_bytes()


class Said(Struct):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        assert self.out.endswith("}\n")
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def sentence(self) -> str:
        """The one sentence on stderr about a mistake, after the name of the program."""
        assert self.code == 2
        return self._sentence

    @property
    def failure(self) -> str:
        """The one sentence about what was asked for rightly and did not succeed."""
        assert self.code == 1
        return self._sentence

    @property
    def _sentence(self) -> str:
        (line,) = self.err.splitlines()
        assert line.startswith("loki-rl: ")
        assert "Traceback" not in line
        return line.removeprefix("loki-rl: ")


Call = Callable[..., Said]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` writes to the working folder unless it is told otherwise."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots have tests of their own, and take longer than the rest of a short comparison."""
    monkeypatch.setattr("loki_rl.reports.report.timeline_png", lambda _, path: path.write_bytes(PIXEL))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Type a command in this process."""

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["loki-rl", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Said(end.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def typed() -> Call:
    """Type a command in a process of its own."""

    def typed(*words: object) -> Said:
        command = [sys.executable, "-m", "loki_rl", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    return typed


@pytest.fixture
def bad(tmp_path: Path, small: Path) -> Path:
    """A folder of files that are wrong."""
    good = small.read_text()
    files = {
        "malformed.yaml": "name: x\n  slo: [\n",
        "key.yaml": good.replace("slo_ms:", "slo_msec:"),
        "variant.yaml": good.replace("accuracy: 0.5", "acuracy: 0.5"),
        "negative.csv": "t_seconds,requests\n0,1\n1,-3\n",
        "columns.csv": "time,users\n0,1\n",
        "empty.csv": "",
        "file": "",
        "crowded.yaml": "types: {tiny: {count: 999999999}}",
        "dear.yaml": "types: {tiny: {count: 4, speed: 0.01}}",
        "servers.json": '{"pipeline": "p", "trace": "t", "policy": "exact", "servers": 0}',
        "key.json": '{"pipeline": "p", "trace": "t", "polcy": "exact"}',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path

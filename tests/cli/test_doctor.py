"""What `doctor` finds on hosts that are in order, and on others."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loki_rl.doctor import host, packages

Call = Callable[..., Any]


class Installed:
    """A distribution as importlib.metadata lists it."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_it_says_what_there_is_and_what_to_do(call: Call) -> None:
    said = call("doctor", "--json")
    found = {one["what"]: one for one in said.json["findings"]}
    assert {"Python", "packages", "ONNX Runtime", "cores", "GPU", "port 8000", "shared memory", "models"} <= set(found)
    assert found["Python"]["level"] == "ok"
    assert all(one["advice"] for one in found.values() if one["level"] == "wrong")
    assert said.code == int(any(one["level"] == "wrong" for one in found.values()))


def test_people_get_a_line_for_each(call: Call) -> None:
    assert "Python: 3." in call("doctor").out


def test_two_wheels_in_one_folder_are_wrong(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "distributions", lambda: map(Installed, packages.RUNTIMES))
    said = call("doctor", "--json")
    (found,) = (one for one in said.json["findings"] if one["what"] == "ONNX Runtime")
    assert (said.code, found["level"]) == (1, "wrong")
    assert "pip uninstall" in found["advice"]


def test_a_port_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(host, "HTTP_PORT", taken.getsockname()[1])
        (found,) = (one for one in host.host() if one.what.startswith("port"))
    assert found.level == "note"
    assert "--http-port" in found.advice


def test_a_folder_that_takes_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "base_folder", lambda: tmp_path / "absent")
    (found,) = (one for one in host.host() if one.what == "run folder")
    assert (found.level, found.advice) == ("wrong", f"make {tmp_path / 'absent'} writable for this user")


def test_nvidia_smi_that_fails_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = tmp_path / "nvidia-smi"
    bad.write_text("#!/bin/sh\necho 'no driver' >&2\nexit 9\n")
    bad.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (found,) = (one for one in host.host() if one.what == "GPU")
    assert found.level == "wrong"
    assert "no driver" in found.found

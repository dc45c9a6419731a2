"""The unit of systemd starts what there is, and leaves the plane the time that it needs."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from click import Context

from loki_rl.cli.main import app
from loki_rl.serving.process.launch import STOP_S

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "loki-rl.service"


def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    return unit["Service"]


def test_it_starts_a_command_that_there_is() -> None:
    _, command, pipeline, *flags = service()["ExecStart"].split()
    assert (command, pipeline) == ("serve", "traffic")
    serve = app.get_command(Context(app), command)
    assert serve is not None
    known = {word for option in serve.params for word in option.opts}
    assert {flag for flag in flags if flag.startswith("--")} <= known


def test_an_orderly_stop_goes_to_the_launcher_alone_and_has_time() -> None:
    found = service()
    assert (found["KillMode"], found["KillSignal"]) == ("mixed", "SIGTERM")
    assert int(found["TimeoutStopSec"]) > 5 * STOP_S + 10
    assert found["OOMPolicy"] == "continue", "one worker is lost, not the plane"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_understands_it(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/loki-rl/bin/loki-rl", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")

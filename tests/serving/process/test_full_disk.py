"""A plane whose disk is full, whose run folder is gone or that may open no more files says so and serves on."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.flight.columns import read_flight
from loki_rl.flight.file import VERSION, Head, begin
from loki_rl.serving.folder import LOCK
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.process.flight_log import RECORDING
from loki_rl.serving.process.launch import LaunchError, LocalPlane
from tests.serving.driving import PATIENCE_S, drive, eventually
from tests.serving.process.test_supervisor import STATIC, end, follow
from tests.serving.process.test_supervisor import base as base


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small one of its own, under a short path."""
    folder = Path(tempfile.mkdtemp(prefix="ld-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.rmdir()


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    file = disk / "all"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(512))
    return file


def troubles(client: Client) -> dict[tuple[str, str], str]:
    return {(one.process, one.kind): one.said for one in client.state().troubles}


def all_counted(client: Client) -> bool:
    tally = client.ledger().tally
    return tally.arrivals == sum(tally.outcome(outcome) for outcome in Outcome)


def test_a_journal_on_a_full_disk_ends_and_requests_are_served_on(
    quick_traffic: ClusterOptions,
    disk: Path,
    base: Path,  # noqa: ARG001
) -> None:
    with LocalPlane(quick_traffic, **STATIC, journal=disk / "journal") as plane, Client(plane.front) as client:
        fill(disk)
        client.begin_run()
        counts = drive(client, 1.0, 10.0)
        while ("gateway", "journal") not in troubles(client):
            counts += drive(client, 1.0, 50.0)
            assert sum(counts.values()) < 20_000, "the journal does not end"
        counts += drive(client, 1.0, 20.0)
        assert counts == {"ok": sum(counts.values())}
        assert all_counted(client)
        assert (
            "the journal cannot be written and ends here; requests are served on: " in troubles(client)["gateway", "journal"]
        )
        assert "No space left" in troubles(client)["gateway", "journal"]
        plane.check()
    assert plane.byes.keys() >= {"gateway", "controller", "workers-0"}


def test_a_recording_on_a_full_disk_ends_and_requests_are_served_on(
    quick_traffic: ClusterOptions,
    disk: Path,
    base: Path,  # noqa: ARG001
) -> None:
    file = disk / "flight"
    begin(file, Head(VERSION, quick_traffic, "", "", 0.0, 0.0))
    with LocalPlane(quick_traffic, **STATIC, recording=file) as plane, Client(plane.front) as client:
        client.begin_run()
        counts = drive(client, 1.5, 20.0)
        filled = fill(disk)
        while ("gateway", RECORDING) not in troubles(client):
            counts += drive(client, 1.0, 50.0)
            assert sum(counts.values()) < 20_000, "the recording does not end"
        filled.unlink()
        counts += drive(client, 1.0, 20.0)
        assert counts == {"ok": sum(counts.values())}
        assert all_counted(client)
        said = troubles(client)["gateway", RECORDING]
        assert said.startswith(f"the recording {file} cannot be written and ends here; requests are served on: No space")
        plane.check()
    assert plane.byes.keys() >= {"gateway", "controller", "workers-0"}
    assert 0 < len(read_flight(file)[1].answers) < sum(counts.values())


def test_a_run_folder_on_a_full_disk_costs_restarts_until_there_is_room(
    quick_traffic: ClusterOptions, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(disk))
    with LocalPlane(quick_traffic, **STATIC) as plane, Client(plane.front) as client:
        client.begin_run()
        filled = fill(disk)
        former = end(plane, "workers-0")
        eventually(lambda: ("launcher", "disk") in troubles(client), "it is not said that it cannot be started")
        assert "'workers-0' cannot be started: " in troubles(client)["launcher", "disk"]
        eventually(lambda: ("gateway", "ledger") in troubles(client), "it is not said that the ledger is not kept")
        counts = drive(client, 1.0, 10.0)
        assert counts == {"ok": sum(counts.values())}
        filled.unlink()
        follow(plane, "workers-0", former)
        assert all_counted(client)
        plane.check()


def test_a_plane_is_not_begun_on_a_full_disk(
    quick_traffic: ClusterOptions, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(disk))
    filled = fill(disk)
    with pytest.raises(LaunchError, match="No space left on device"), LocalPlane(quick_traffic, **STATIC):
        pass
    filled.unlink()
    assert not list(disk.iterdir())


@pytest.mark.parametrize("name", ["workers-0", "gateway"])
def test_a_run_folder_that_is_removed_is_made_again(quick_traffic: ClusterOptions, base: Path, name: str) -> None:
    """Who is there serves on, who is started later finds the others, and new clients come in."""
    with LocalPlane(quick_traffic, **STATIC) as plane, Client(plane.front) as client:
        (folder,) = base.iterdir()
        lost = sorted(file.name for file in folder.iterdir() if file.is_socket())
        assert "front" in lost
        shutil.rmtree(folder)
        client.begin_run()
        counts = drive(client, 0.5, 10.0)
        assert counts == {"ok": sum(counts.values())}
        eventually(lambda: all((folder / file).is_socket() for file in lost), "not all can be reached again")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / LOCK).is_file()
        eventually(lambda: ("launcher", "folder") in troubles(client), "it is not said")
        follow(plane, name, end(plane, name))
        with Client(plane.front) as other:
            other.wait_ready(PATIENCE_S)
            assert other.infer(timeout_s=PATIENCE_S).outcome == "ok"
            eventually(lambda: ("launcher", "folder") in troubles(other), "a new gateway does not know")
        plane.check()


def test_a_gateway_that_may_open_no_more_files_says_so_or_is_started_again(
    quick_traffic: ClusterOptions,
    base: Path,  # noqa: ARG001
) -> None:
    with LocalPlane(quick_traffic, **STATIC) as plane, Client(plane.front) as client, zmq.Context() as context:
        client.begin_run()
        client.infer(timeout_s=PATIENCE_S)
        former = plane.pids["gateway"]
        _, hard = resource.prlimit(former, resource.RLIMIT_NOFILE)
        resource.prlimit(former, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{former}/fd")), hard))
        eventually(lambda: ("gateway", "ledger") in troubles(client), "it is not said")
        assert "Too many open files" in troubles(client)["gateway", "ledger"]
        counts = drive(client, 0.5, 10.0)
        assert counts == {"ok": sum(counts.values())}
        with context.socket(zmq.DEALER) as stranger:  # libzmq ends a process that cannot take a connection
            stranger.connect(plane.front)
            follow(plane, "gateway", former)
        client.wait_ready(PATIENCE_S)
        assert client.infer(timeout_s=PATIENCE_S).outcome == "ok"
        plane.check()


def test_processes_may_open_as_many_files_as_the_host_allows(
    quick_traffic: ClusterOptions,
    base: Path,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make: Callable[..., LocalPlane] = LocalPlane
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr("loki_rl.serving.process.child.MOST_FILES", 300)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with make(quick_traffic, **STATIC) as plane:
            limits = {resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in plane.pids.values()}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert limits == {(300, hard)}

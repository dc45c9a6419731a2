"""The parts of the comparison with other servers that need none of them: the protocol as their servers speak it, trees of
processes, the null chain on our own plane, and the report."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import cases, contestants
from benchmarks.peers.closed_loop import closed_loop
from benchmarks.peers.contestants import Entry, free_ports, started
from benchmarks.peers.duels import Bout, Row, play
from benchmarks.peers.environment import COMMON, PeerError, environment
from benchmarks.peers.process import Launch, serving, spent_between
from benchmarks.peers.report import Host, Report, load_all, page, save
from benchmarks.peers.servers import oip
from benchmarks.peers.servers.both import answer_of
from benchmarks.peers.servers.spec import Kind
from benchmarks.peers.work import null_chain, write_spec
from loki_rl.core.messages import Outcome
from loki_rl.core.requests.items import QoS
from loki_rl.files.config import load_pipeline
from loki_rl.files.tables import ConfigError
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.load import http_sender

# Serves its folder, and has a child that would outlive it.
SERVER = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={})
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.mark.parametrize(
    ("kind", "payload"),
    [("null", np.arange(16, dtype=np.float32)[np.newaxis]), ("reading", np.frombuffer(b"a picture", np.uint8))],
)
def test_a_peer_reads_what_our_client_sends(kind: Kind, payload: Array) -> None:
    body, header_length = http_sender._body(payload, oip.metadata(kind), 0.4, QoS())
    read = oip.read(body, header_length)
    assert read.dtype == payload.dtype
    assert read.tolist() == payload.tolist()


def test_what_a_peer_answers_is_well_formed_and_ends_well() -> None:
    body, length = oip.elements("reading", [b"one", b"", b"three"])
    assert body[length:] == b"\x03\0\0\0one\0\0\0\0\x05\0\0\0three"
    assert b'"shape":[3]' in body[:length]
    assert http_sender._seen(7, 200, body, 0.0).outcome is Outcome.OK


def test_the_null_chain_gives_back_what_it_takes_on_a_peer(tmp_path: Path) -> None:
    work = null_chain(tmp_path)
    assert [task.name for task in load_pipeline(work.pipeline).pipeline.tasks] == ["null_a", "null_b"]
    sent = np.arange(16, dtype=np.float32)[np.newaxis]
    body, length = answer_of(work.spec(1))(sent)
    assert np.frombuffer(body[length:], np.float32).tolist() == sent[0].tolist()
    assert write_spec(work.spec(1), tmp_path / "spec.json").is_absolute()


def test_our_own_plane_serves_the_null_chain_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contestants, "FOLDER", tmp_path)
    with started(Entry("loki-rl", null_chain(tmp_path / "work")), ()) as contestant:
        with closing(contestant.sender(5.0)) as sender:
            seen = closed_loop(sender, 4, 0.5, 5.0)
        assert seen.served
        assert not seen.failed
        assert len(contestant.tree.pids()) > 4
        assert sum(contestant.tree.spent_s().values()) > 0
    assert until(lambda: not contestant.tree.pids())


def test_a_server_is_stopped_with_all_that_came_of_it(tmp_path: Path) -> None:
    port = free_ports().http
    launch = Launch("server", [sys.executable, "-c", SERVER, str(port)], port, "/", tmp_path / "log", folder=tmp_path)
    with serving(launch) as tree:
        assert len(tree.pids()) == 2
        assert spent_between({}, tree.spent_s()) >= 0
    assert until(lambda: not tree.pids())


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    launch = Launch("server", command, free_ports().http, "/", tmp_path / "log", folder=tmp_path)
    with pytest.raises(PeerError, match="server does not serve: no such model"), serving(launch):
        pass


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        (tmp_path / "venv" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "venv" / "bin" / "python").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    python = environment(tmp_path, "peer", ("one>=1",))
    assert [command[-len(COMMON) - 1 :] for command in calls[1:]] == [["one>=1", *COMMON]]
    assert environment(tmp_path, "peer", ("one>=1",)) == python
    assert len(calls) == 2
    environment(tmp_path, "peer", ("one>=2",))
    assert len(calls) == 4


def test_who_does_not_start_has_rows_that_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "FOLDER", tmp_path)
    broken = null_chain(tmp_path / "work")
    broken.pipeline.write_text("name: nothing\n")
    told: list[Row] = []
    chosen = [cases.idle(1), *cases.closed(1)]
    rows = play(Bout("null", (), 2, told.append), [Entry("loki-rl", broken)], chosen)
    assert [(row.case, row.round) for row in rows] == [(case.name, number) for number in range(2) for case in chosen]
    assert all("does not serve" in row.error for row in rows)
    assert told == rows


def test_the_report_has_medians_and_what_ours_is_to_each_peer(tmp_path: Path) -> None:
    rows = [
        Row("reading", "at capacity", name, number, {"rps": rps + number, "accuracy": 0.5, "exact_rps": rps / 2})
        for name, rps in (("peer, best", 10.0), ("peer, fastest", 40.0), ("loki-rl", 21.0))
        for number in range(3)
    ]
    rows.append(Row("reading", "at capacity", "loki-rl", 3, error="it was not there"))
    where = Host("Linux", 2, "load average 0.1")
    save(Report("peer", "Peer", "reading", where, {"peer": "1.0"}, 3, 10, "default", rows), tmp_path)
    text = page(load_all(tmp_path))
    assert "peer, best: rate 2.00x, x accuracy 2.10x; peer, fastest: rate 0.54x, x accuracy 0.53x" in text
    assert "- reading, at capacity, loki-rl, round 3: it was not there" in text


def test_a_file_that_is_no_report_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"notes\.json is no report"):
        load_all(tmp_path)


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> bool:
    """Whether it holds in time."""
    limit = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True

"""Trace files: what is read from good ones, and what a wrong one is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from loki_rl.traces.trace import DATA, Trace, TraceError, TraceOptions, find_trace, load_trace, save_trace, window


def _write(folder: Path, text: str, name: str = "t.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_counts_per_bin(tmp_path: Path) -> None:
    trace = load_trace(_write(tmp_path, "t_seconds,requests\n60,5\n120,0\n180,7\n\n"))
    assert (trace.name, trace.bin_s, trace.exact) == ("t", 60.0, False)
    assert trace.starts_s.tolist() == [60.0, 120.0, 180.0]
    assert trace.counts.tolist() == [5, 0, 7]
    assert (trace.from_s, trace.to_s) == (60.0, 240.0)


@pytest.mark.parametrize(
    ("column", "rows"), [("t_ms", "28\n40.5\n40.5\n2100\n"), ("t_seconds", "0.028\n.0405\n.0405\n2.1\n")]
)
def test_one_arrival_a_line(tmp_path: Path, column: str, rows: str) -> None:
    trace = load_trace(_write(tmp_path, f"{column}\n{rows}"))
    assert trace.exact
    assert trace.starts_s == pytest.approx([0.028, 0.0405, 0.0405, 2.1])
    assert trace.counts.tolist() == [1, 1, 1, 1]
    assert (trace.from_s, trace.to_s) == (0.0, 3.0)


def test_requests_of_exact_arrivals_may_ask_for_more(tmp_path: Path) -> None:
    trace = load_trace(_write(tmp_path, "t_ms,min_accuracy,retries\n5,0,2\n10,.95,0\n10,1,0\n"))
    assert trace.wishes is not None
    assert trace.wishes.min_accuracy.tolist() == [0.0, 0.95, 1.0]
    assert (trace.wishes.priority.tolist(), trace.wishes.retries.tolist()) == ([0, 0, 0], [2, 0, 0])
    save_trace(trace, tmp_path / "again.csv")
    again = load_trace(tmp_path / "again.csv").wishes
    assert again is not None
    assert again.min_accuracy.tolist() == [0.0, 0.95, 1.0]


def test_a_packed_file_is_the_same(tmp_path: Path) -> None:
    text = "t_seconds,requests\r\n0,1\r\n1,2\r\n"
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(text.encode("utf-8-sig")))
    trace = load_trace(tmp_path / "p.csv.gz")
    assert (trace.name, trace.counts.tolist()) == ("p", [1, 2])


def test_a_single_row_is_a_bin_of_one_second(tmp_path: Path) -> None:
    assert load_trace(_write(tmp_path, "t_seconds,requests\n0,10\n")).to_s == 1.0


@pytest.mark.parametrize(
    "trace",
    [
        Trace("s", np.array([0.0, 0.5, 1.0]), np.array([3, 0, 2]), 0.5),
        Trace("s", np.array([0.0125, 7.25]), np.array([1, 1]), 0.0),
    ],
)
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, trace: Trace) -> None:
    save_trace(trace, tmp_path / "s.csv")
    again = load_trace(tmp_path / "s.csv")
    assert again.starts_s == pytest.approx(trace.starts_s)
    assert again.counts.tolist() == trace.counts.tolist()
    assert again.bin_s == trace.bin_s


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t\.csv: is empty; expected the columns"),
        ("\n \n", r"is empty"),
        ("t_seconds,requests\n", r"holds no bin; add rows"),
        ("t_ms\n", r"holds no arrival"),
        ("time,users\n0,1\n", r"line 1: unknown columns 'time,users'; expected 't_seconds,requests'"),
        ("0,1\n1,2\n", r"line 1: unknown columns '0,1'"),
        ("rate\n5\n", r"unknown columns 'rate'"),
        ("t_seconds,requests\n0,1\n1,-2\n", r"line 3: -2 requests; a count must lie between 0 and"),
        ("t_seconds,requests\n0,1\n1,2.5\n", r"line 3: '2\.5' is not a whole number"),
        ("t_seconds,requests\n0,1\n1,many\n", r"line 3: 'many' is not a whole number"),
        ("t_seconds,requests\n0,99999999999999999999\n", r"a count must lie between"),
        ("t_seconds,requests\nzero,1\n", r"line 2: 'zero' is not a number"),
        ("t_seconds,requests\nnan,1\n", r"line 2: time nan is not at or after 0"),
        ("t_seconds,requests\n-1,1\n0,1\n", r"line 2: time -1 is not at or after 0"),
        ("t_seconds,requests\n0,1,9\n", r"line 2: expected 2 values, got 3"),
        ("t_seconds,requests\n0,1\n\n2,1\n1,1\n", r"line 5: time 1 is not after 2; sort"),
        ("t_seconds,requests\n0,1\n1,1\n3,1\n", r"line 4: bins are 1 s wide, but 3 follows 1; write every bin"),
        ("t_ms\n10\n5\n", r"line 3: 5 comes after 10; sort the arrivals"),
        ("t_ms\n10\nx\n", r"line 3: 'x' is not a number"),
        ("t_ms\n10,3\n", r"line 2: expected 1 values, got 2 in '10,3'"),
        ("t_ms,priority\n10\n", r"line 2: expected 2 values, got 1"),
        ("t_ms,priority\n10,1.5\n", r"line 2: priority '1\.5' is not a whole number from 0 to 4294967295"),
        ("t_ms,priority\n10,1\n11,-1\n", r"line 3: priority '-1' is not a whole"),
        ("t_ms,min_accuracy\n10,nan\n", r"line 2: min_accuracy 'nan' is not a number from 0 to 1"),
        ("t_ms,retries,min_accuracy\n10,1,\n", r"line 2: min_accuracy '' is not a number"),
        ("t_ms,retries\n10,1001\n", r"line 2: retries '1001' is not a whole number from 0 to 1000"),
        ("t_ms,retries,retries\n10,1,1\n", r"line 1: unknown columns 't_ms,retries,retries'"),
    ],
)
def test_a_wrong_file_is_told_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        load_trace(_write(tmp_path, text))
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"), [("x.csv.gz", b"no gzip"), ("x.csv", gzip.compress(b"t_ms\n1\n", mtime=0)), ("y.csv.gz", b"")]
)
def test_bytes_that_are_no_trace_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TraceError, match=rf"{name}: (cannot be read|is not UTF-8 text|is empty)"):
        load_trace(tmp_path / name)


def test_a_cut_gzip_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"t_ms\n" + b"1\n" * 1000)[:-10])
    with pytest.raises(TraceError, match="cannot be read"):
        load_trace(tmp_path / "x.csv.gz")


def test_a_bare_name_is_a_shipped_trace() -> None:
    assert load_trace("flash_crowd").name == "flash_crowd"
    with pytest.raises(TraceError, match=r"no trace 'flashcrowd'; did you mean 'flash_crowd'\?"):
        find_trace("flashcrowd")
    with pytest.raises(TraceError, match=r"no trace 'zzz'; known are .*flash_crowd"):
        find_trace("zzz")
    with pytest.raises(TraceError, match="no such trace file; check the path"):
        find_trace("data/none.csv")


TRACE = Trace("t", np.arange(10.0) * 60, np.full(10, 30), 60.0)


def test_the_window_is_the_whole_trace_by_default() -> None:
    assert window(TRACE, TraceOptions()) == (0.0, 600.0)
    assert window(TRACE, TraceOptions(from_s=90)) == (90.0, 600.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TraceOptions(compress=0), "compress must be above 0, not 0"),
        (TraceOptions(compress=float("nan")), "compress must be above 0"),
        (TraceOptions(mean_rps=-1), "mean_rps must be above 0, not -1"),
        (TraceOptions(rate_scale=float("inf")), "rate_scale must be above 0"),
        (TraceOptions(mean_rps=1, rate_scale=1), "mean_rps and rate_scale exclude each other"),
        (TraceOptions(from_s=60, to_s=60), "the window 60 to 60 s does not lie in it"),
        (TraceOptions(from_s=-5), "runs from 0 to 600 s; the window -5 to 600 s"),
        (TraceOptions(to_s=601), "does not lie in it"),
    ],
)
def test_wrong_options_are_told_what(options: TraceOptions, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        window(TRACE, options)


def test_every_shipped_trace_loads_and_is_on_their_page() -> None:
    files = sorted(file for file in DATA.iterdir() if file.suffix in {".csv", ".gz"})
    assert len(files) == 9
    page = (DATA / "README.md").read_text(encoding="utf-8")
    for file in files:
        assert len(load_trace(file).counts) > 100
        assert file.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".arrivals") in page


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("azure_llm.arrivals.csv", "azure_llm.arrivals"),
        ("größe 2 (a).csv", "größe 2 (a)"),
        ("a<b>|`c`.csv", "a-b---c-"),
        ("...csv", "trace"),
        (".csv", "trace"),
    ],
)
def test_a_name_can_be_that_of_a_folder_and_stand_on_a_page(tmp_path: Path, file: str, name: str) -> None:
    assert load_trace(_write(tmp_path, "t_seconds,requests\n0,5\n1,0\n", file)).name == name

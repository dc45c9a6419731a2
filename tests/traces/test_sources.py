"""Public formats: recognised by their header, read as their authors mean them, and refused with a reason."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from loki_rl.traces.demand import Trace, TraceError
from loki_rl.traces.trace import load_trace

LLM = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
FUNCTIONS = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\n"


def _load(folder: Path, text: str, name: str = "t.csv") -> Trace:
    (folder / name).write_text(text, encoding="utf-8")
    return load_trace(folder / name)


def test_azure_functions_are_summed_per_minute(tmp_path: Path) -> None:
    trace = _load(tmp_path, FUNCTIONS + "o1,a1,f1,http,10,20,30\no2,a2,f2,timer,5,5,5\no3,a3,f3,queue,1,0,0\n")
    assert trace.counts.tolist() == [16, 25, 35]
    assert (trace.starts_s.tolist(), trace.bin_s, trace.to_s) == ([0.0, 60.0, 120.0], 60.0, 180.0)
    assert trace.source.startswith("Azure Functions 2019")
    assert trace.synthetic == "times inside the bins of 60 s are synthetic: drawn uniformly, not observed"


def test_azure_llm_of_2023_has_ticks_of_100_ns(tmp_path: Path) -> None:
    trace = _load(tmp_path, LLM + "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,110,27\n")
    assert trace.exact
    assert trace.starts_s == pytest.approx([0.97996, 1.03196], abs=1e-6)
    assert trace.counts.tolist() == [1, 1]
    assert trace.synthetic == ""


def test_azure_llm_of_2024_has_zones_and_is_sorted_here(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:01.5+00:00,8,1\n2024-05-10 00:00:00.009930+00:00,9,2\n2024-05-10 00:00:02+00:00,1,1\n"
    assert _load(tmp_path, LLM + rows).starts_s == pytest.approx([0.00993, 1.5, 2.0], abs=1e-6)


def test_burst_gpt_counts_seconds(tmp_path: Path) -> None:
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    trace = _load(tmp_path, header + "5,ChatGPT,472,18,490,Conversation log\n10519200,GPT-4,1,2,3,API log\n")
    assert trace.starts_s.tolist() == [0.0, 10519195.0]


def test_dates_tell_the_day_of_the_week(tmp_path: Path) -> None:
    """2021-04-25 was a Sunday. A log that counts from its own beginning names no day."""
    counts = _load(tmp_path, "timestamp,count\n2021-04-25 17:30:00,4\n2021-04-25 17:30:10,5\n")
    requests = _load(tmp_path, "timestamp\n2021-04-25 17:30:00.25\n2021-04-25 17:30:01\n")
    assert counts.clock_s == requests.clock_s == 6 * 86_400 + 17.5 * 3600
    assert _load(tmp_path, "timestamp\n5\n8\n").clock_s == 0


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("timestamp,value", "2015-02-26 21:40:00,104\n2015-02-26 21:45:00,100.0\n2015-02-26 21:50:00,0\n"),
        ('"Date","views"', '"2015-02-26T21:40:00Z","104"\n"2015-02-26T21:45:00Z",100\n"2015-02-26T21:50:00Z",0\n'),
        ("time,tweets", "1424986800,104\n1424987100,100\n1424987400,0\n"),
    ],
)
def test_dated_counts_begin_at_their_first_bin(tmp_path: Path, header: str, rows: str) -> None:
    trace = _load(tmp_path, f"{header}\n{rows}")
    assert trace.starts_s.tolist() == [0.0, 300.0, 600.0]
    assert trace.counts.tolist() == [104, 100, 0]
    assert trace.bin_s == 300.0


def test_bare_counts_are_seconds_and_bare_dates_are_requests(tmp_path: Path) -> None:
    counts = _load(tmp_path, "requests\n5\n0\n7\n")
    assert (counts.bin_s, counts.counts.tolist()) == (1.0, [5, 0, 7])
    dates = _load(tmp_path, "timestamp\n2021-04-25 17:30:00.25\n2021-04-25 17:30:01\n")
    assert dates.exact
    assert dates.starts_s.tolist() == [0.25, 1.0]


def test_packed_files_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "d01.csv.gz").write_bytes(gzip.compress((FUNCTIONS + "o,a,f,http,1,2,3\n").encode()))
    trace = load_trace(tmp_path / "d01.csv.gz")
    assert (trace.name, trace.counts.tolist()) == ("d01", [1, 2, 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FUNCTIONS + "o,a,f,http,1,2\n", r"line 2: expected 7 values, got 6"),
        (FUNCTIONS + "o,a,f,http,1,2,3,4\n", r"line 2: expected 7 values, got 8"),
        (FUNCTIONS + "o,a,f,http,1,x,3\n", r"line 2: 'x' is not a whole number; expected the requests of each minute"),
        (FUNCTIONS + "o,a,f,http,1,2.5,3\n", r"line 2: '2\.5' is not a whole number"),
        (FUNCTIONS + "o,a,f,http,1,,3\n", r"line 2: '' is not a whole number"),
        (FUNCTIONS + "o,a,f,http,1,-2,3\n", r"line 2: a count must lie between 0 and"),
        (FUNCTIONS + "o,a,f,http,1,999999999,3\n" * 2, r"minute 2: 1999999998 requests; a count must lie"),
        (FUNCTIONS, r"holds no function"),
        (LLM, r"holds no request; expected one line for each"),
        (LLM + "yesterday,1,1\n", r"line 2: 'yesterday' is neither a date as 2021-04-25 17:30:00 nor seconds"),
        (LLM + "2023-11-16 18:17:03,1\n", r"line 2: expected 3 values, got 2"),
        (LLM + "nan,1,1\n", r"line 2: 'nan' is neither"),
        ("date,views\n20210425,7\n20210426,8\n", r"line 2: '20210425' is neither a date"),
        ("date,views\n2021-04-25,7\n2021-04-26,many\n", r"line 3: 'many' is not a whole number"),
        ("date,views\n2021-04-25,7\n2021-04-26,8\n2021-04-28,9\n", r"line 4: bins are 86400 s wide"),
        ("date,views\n2021-04-25,7\n2021-04-24,8\n", r"line 3: time 1619222400 is not after 1619308800; sort"),
        ("date,views\n", r"holds no bin"),
        ("requests\n", r"holds no bin"),
        ("requests\n1\n1.5\n", r"line 3: '1\.5' is not a whole number"),
    ],
)
def test_a_wrong_file_is_told_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        _load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "t.csv"))
    assert "\n" not in str(caught.value)


def test_unknown_columns_are_told_every_format(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="unknown columns 'a,b'") as caught:
        _load(tmp_path, "a,b\n1,2\n")
    for name in ("t_seconds,requests", "t_ms", "Azure Functions 2019", "Azure LLM", "BurstGPT", "timestamp,count"):
        assert name in str(caught.value)


def test_a_long_header_is_not_repeated_in_full(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"unknown columns 'c,c,.*\.\.\.'"):
        _load(tmp_path, ",".join(["c"] * 1000) + "\n1\n")

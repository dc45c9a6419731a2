"""Statistics of traces: known values on made ones, published ones on real ones."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.traces.generate import generate
from loki_rl.traces.stats import trace_stats
from loki_rl.traces.trace import Trace, TraceOptions, load_trace


def test_counts_give_mean_peak_and_idc() -> None:
    found = trace_stats(Trace("t", np.arange(4.0) * 2, np.array([2, 4, 6, 8]), 2.0))
    assert (found.length_s, found.requests, found.bin_s) == (8.0, 20, 2.0)
    assert (found.mean_rps, found.peak_rps, found.peak_over_mean) == (2.5, 4.0, 1.6)
    assert found.idc == found.idc_local == 1.0
    assert found.synthetic_inside_bin


def test_evenly_spaced_arrivals_have_no_variation() -> None:
    found = trace_stats(Trace("t", np.arange(100) / 4, np.ones(100, np.int64), 0.0))
    assert (found.mean_rps, found.idc) == (4.0, 0.0)
    assert found.cv == pytest.approx(0, abs=1e-12)
    assert not found.synthetic_inside_bin


def test_poisson_demand_has_idc_and_cv_of_one() -> None:
    found = trace_stats(generate("ramp", 3000, 50.0, 0, peak=1.0))
    assert (found.idc, found.idc_local, found.cv) == pytest.approx((1, 1, 1), abs=0.1)


def test_the_local_idc_leaves_slow_changes_out() -> None:
    found = trace_stats(generate("diurnal", 6000, 20.0, 0))
    assert found.idc > 10
    assert found.idc_local < 2


def test_burstiness_is_told_at_growing_windows() -> None:
    found = trace_stats(generate("mmpp", 2000, 20.0, 0, peak=5.0, period_s=8.0))
    assert [one.window_s for one in found.idc_windows] == pytest.approx([0.1, 1.0, 10.0, 100.0])
    values = [one.idc for one in found.idc_windows]
    assert 1 < values[0] < values[1] < values[2]
    assert values[1] == found.idc
    assert found.source == "generated"
    assert not found.synthetic_inside_bin


def test_no_window_is_shorter_than_what_was_observed() -> None:
    trace = Trace("t", np.arange(400.0) * 60, np.full(400, 30), 60.0)
    assert [one.window_s for one in trace_stats(trace, TraceOptions(compress=60)).idc_windows] == [1.0, 10.0]


def test_options_apply_and_no_request_is_no_fault() -> None:
    trace = Trace("t", np.arange(60.0), np.full(60, 8), 1.0)
    found = trace_stats(trace, TraceOptions(to_s=30, compress=2, rate_scale=2))
    assert (found.length_s, found.requests, found.mean_rps, found.bin_s, found.idc) == (15.0, 480, 32.0, 0.5, 0.0)
    nothing = trace_stats(Trace("t", np.arange(3.0), np.zeros(3, np.int64), 1.0))
    assert (nothing.requests, nothing.peak_over_mean, nothing.idc, nothing.idc_local, nothing.cv) == (0, 0, 0, 0, 0)


def test_a_bin_that_the_window_cuts_is_no_lull() -> None:
    trace = Trace("t", np.arange(10.0) * 60, np.full(10, 600), 60.0)
    assert trace_stats(trace, TraceOptions(to_s=545)).idc == 0.0


@pytest.mark.parametrize(
    ("name", "mean_rps", "peak_rps", "key", "value"),
    [
        ("azure_llm_code_2023.arrivals", 2.57, 67, "cv", 13.2),
        ("azure_llm_code_2023", 2.57, 67, "idc_local", 10.6),
        ("azure_functions_2019_500f", 102, 123, "bin_s", 60),
        ("nab_elb_requests_2014", 0.206, 2.19, "bin_s", 300),
    ],
)
def test_real_traces_have_their_published_figures(
    name: str, mean_rps: float, peak_rps: float, key: str, value: float
) -> None:
    found = trace_stats(load_trace(name))
    assert (found.mean_rps, found.peak_rps) == pytest.approx((mean_rps, peak_rps), rel=0.01)
    assert getattr(found, key) == pytest.approx(value, rel=0.01)

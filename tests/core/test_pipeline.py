"""Pipelines: the tree and every figure derived from it, and what a contradictory description is told."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.core.pipeline import Latency, Pipeline, PipelineError, Task, Variant, expand, root_of

MS = 0.001


def row(ms: float) -> Latency:
    return Latency(ms * MS, 2 * ms * MS, 3 * ms * MS)


def tree() -> Pipeline:
    """find -> (read -> check, sort): three levels, two branches, two entry items in every other request."""
    find = (
        Variant("quick", 0.5, {1: row(10), 4: row(20)}, {"read": 2.0, "sort": 0.5}),
        Variant("good", 0.8, {1: row(20), 4: row(60)}, {"read": 3.0, "sort": 1.0}),
    )
    read = (Variant("r1", 0.9, {1: row(5)}, {"check": 1.0}), Variant("r2", 0.7, {1: row(2)}, {"check": 4.0}))
    return Pipeline(
        name="tree",
        slo_s=0.2,
        tasks=(
            Task("find", find, entry=1.5),
            Task("read", read, parent="find"),
            Task("sort", (Variant("s1", 0.6, {1: row(4)}),), parent="find"),
            Task("check", (Variant("c1", 1.0, {1: row(1)}), Variant("c2", 0.5, {1: row(1)})), parent="read"),
        ),
        leaf_weights={"sort": 0.25, "check": 0.75},
        path_accuracy={("quick", "r1", "c2"): 0.9},
    )


PIPELINE = tree()


def test_the_tree() -> None:
    assert PIPELINE.parents == (-1, 0, 0, 1)
    assert PIPELINE.children == ((1, 2), (3,), (), ())
    assert (PIPELINE.entries, PIPELINE.leaves) == ((0,), (2, 3))
    assert PIPELINE.lines == ((0,), (0, 1), (0, 2), (0, 1, 3))
    assert PIPELINE.fanouts == (((2.0, 0.5), (3.0, 1.0)), ((1.0,), (4.0,)), ((),), ((), ()))


def test_the_rest_of_the_path_is_its_slowest_branch_by_the_fastest_variants() -> None:
    hops = 3 * PIPELINE.hop_s
    assert PIPELINE.rest_s == pytest.approx((hops + 2 * MS + hops + 1 * MS, hops + 1 * MS, 0.0, 0.0))
    assert PIPELINE.fastest_path_s == pytest.approx(10 * MS + PIPELINE.rest_s[0] + 4 * PIPELINE.hop_s)


def test_a_measured_path_counts_for_more_than_the_product() -> None:
    assert PIPELINE.accuracy(3, (0, 0, 1)) == 0.9
    assert PIPELINE.accuracy(3, (1, 0, 1)) == pytest.approx(0.8 * 0.9 * 0.5)
    assert PIPELINE.best_completion(3, (0,)) == 0.9, "the best completion may be a measured path of a weaker variant"
    assert PIPELINE.best_completion(3, (1,)) == pytest.approx(0.8 * 0.9)
    assert PIPELINE.best_accuracy == pytest.approx(0.75 * 0.9 + 0.25 * 0.8 * 0.6)


def test_every_path_has_a_code_of_its_own() -> None:
    codes: dict[int, tuple[int, ...]] = {}
    for leaf in PIPELINE.leaves:
        for path in PIPELINE.paths(leaf):
            code = 0
            for variant in path:
                code = PIPELINE.extend(code, variant)
            assert PIPELINE.unpack(code) == path
            assert codes.setdefault(code, path) == path
    assert PIPELINE.unpack(0) == ()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.data())
def test_no_two_items_share_an_id(data: st.DataObject) -> None:
    """Parents, siblings and requests, at the limits of their numbers too."""
    root = data.draw(st.integers(0, (1 << 32) - 1))
    most = PIPELINE.max_children
    entries = [PIPELINE.entry_id(root, number) for number in range(15)]
    parent = data.draw(st.sampled_from(entries))
    numbers = data.draw(st.lists(st.integers(0, most - 1), min_size=2, max_size=6, unique=True))
    children = [PIPELINE.child_id(parent, data.draw(st.sampled_from([1, 2])), number) for number in numbers]
    leaves = [PIPELINE.child_id(child, 3, number) for child in children for number in (0, most - 1)]
    ids = [*entries, *children, *leaves]
    assert len(set(ids)) == len(ids)
    assert {root_of(item) for item in ids} == {root}


def test_a_padded_batch_costs_what_the_next_profiled_one_costs() -> None:
    rows = expand({1: row(10), 4: row(20), 8: row(15)}, padded=True)
    assert [round(1000 * found.p50) for found in rows] == [0, 10, 15, 15, 15, 15, 15, 15, 15]


def test_without_padding_time_lies_between_and_never_above_a_larger_batch() -> None:
    rows = expand({1: row(10), 3: row(30), 5: row(12)}, padded=False)
    assert [round(1000 * found.p50) for found in rows] == [0, 10, 12, 12, 12, 12]
    rows = expand({1: row(10), 3: row(30), 5: row(40)}, padded=False)
    assert [round(1000 * found.p50) for found in rows] == [0, 10, 20, 30, 35, 40]
    assert rows[2].p99 == pytest.approx(60 * MS)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.dictionaries(st.integers(2, 12), st.integers(1, 50), max_size=4), st.integers(1, 50), st.booleans())
def test_a_larger_batch_is_never_faster(larger: dict[int, int], first: int, padded: bool) -> None:
    rows = expand({1: row(first), **{size: row(ms) for size, ms in larger.items()}}, padded)
    times = [found.p50 for found in rows]
    assert len(times) == 1 + max(1, *larger) if larger else len(times) == 2
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(times)), times


FIND, READ, SORT, CHECK = PIPELINE.tasks


def find(**change: Any) -> tuple[Task, ...]:
    """The tasks with one variant of the first one changed."""
    return (replace(FIND, variants=(replace(FIND.variants[0], **change), FIND.variants[1])), READ, SORT, CHECK)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tasks": ()}, "at least one task"),
    ({"slo_s": 0.0}, "SLO must be above 0"),
    ({"slo_s": math.nan}, "SLO must be above 0"),
    ({"slo_s": math.inf}, "SLO must be above 0"),
    ({"slo_s": 1e9}, "SLO must be above 0 and at most a day"),
    ({"servers": 0}, "servers must be at least 1"),
    ({"tasks": (FIND, READ, SORT, CHECK, SORT)}, "a task name stands twice in find, read, sort, check, sort"),
    ({"tasks": (READ, FIND, SORT, CHECK)}, "task 'read': parent 'find' is not a task above it"),
    ({"tasks": (FIND, replace(READ, entry=1.0), SORT, CHECK)}, "task 'read': only a task without a parent"),
    ({"tasks": (replace(FIND, entry=0.0), READ, SORT, CHECK)}, "task 'find': a task without a parent needs a rate"),
    ({"tasks": (replace(FIND, entry=1e-12), READ, SORT, CHECK)}, "needs a rate per request of 1e-06 or more"),
    ({"tasks": (replace(FIND, variants=()), READ, SORT, CHECK)}, "task 'find' has no variants"),
    ({"tasks": (replace(FIND, variants=FIND.variants[:1] * 2), READ, SORT, CHECK)}, "variant 'quick' stands twice"),
    ({"tasks": find(accuracy=0.0)}, "task 'find', variant 'quick': accuracy must lie in (0, 1], not 0.0"),
    ({"tasks": find(accuracy=math.nan)}, "accuracy must lie in (0, 1], not nan"),
    ({"tasks": find(latency={})}, "has no latency profile"),
    ({"tasks": find(latency={2: row(1)})}, "the latency of batch 1 is missing"),
    ({"tasks": find(latency={1: row(1), 0: row(1)})}, "batch 0 is not a size"),
    ({"tasks": find(latency={1: Latency(0.02, 0.01, 0.03)})}, "batch 1: need 0 < p50 <= p95 <= p99"),
    ({"tasks": find(latency={1: Latency(0.01, 0.02, math.inf)})}, "batch 1: need 0 < p50 <= p95 <= p99"),
    ({"tasks": find(fanout={"read": 1.0})}, "fanout must name exactly the child tasks ['read', 'sort']"),
    ({"tasks": find(fanout={"read": 1.0, "sort": -1.0})}, "a fanout below 0"),
    ({"tasks": find(fanout={"read": math.inf, "sort": 0.0})}, "inf children per item; at most 500"),
    ({"tasks": find(load_s=-1.0)}, "load_s must be at least 0 and at most a day, not -1.0"),
    ({"tasks": find(load_s=math.nan)}, "load_s must be at least 0 and at most a day, not nan"),
    ({"tasks": find(load_s=1e9)}, "load_s must be at least 0 and at most a day, not 1000000000.0"),
    ({"tasks": find(latency={1: Latency(0.01, 0.02, 1e9)})}, "need 0 < p50 <= p95 <= p99, and no more than a day"),
    ({"tasks": find(memory_mb=-1.0)}, "memory_mb must be at least 0, not -1.0"),
    ({"tasks": (replace(FIND, entry=15.5), READ, SORT, CHECK)}, "may start with 16 items; at most 15"),
    ({"leaf_weights": {"sort": 1.0}}, "leaf_weights must name exactly the leaf tasks ['check', 'sort']"),
    ({"leaf_weights": {"sort": 1.5, "check": -0.5}}, "a leaf weight below 0"),
    ({"leaf_weights": {"sort": 0.5, "check": 0.4}}, "leaf_weights must sum to 1, not 0.9"),
    ({"path_accuracy": {("quick", "c1"): 0.5}}, "path_accuracy of quick -> c1: not the variants of a path"),
    ({"path_accuracy": {("quick", "s1"): 1.5}}, "path_accuracy of quick -> s1: must lie in [0, 1], not 1.5"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_contradiction_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        replace(PIPELINE, **change)
    assert message in str(caught.value)


def chain(depth: int, fanout: float = 1.0) -> Pipeline:
    names = [f"t{level}" for level in range(depth)]
    tasks = [
        Task(
            name,
            (Variant("v", 1.0, {1: row(1)}, {names[level + 1]: fanout} if level + 1 < depth else {}),),
            parent=names[level - 1] if level else None,
            entry=0.0 if level else 1.0,
        )
        for level, name in enumerate(names)
    ]
    return Pipeline("chain", 1.0, tuple(tasks), {names[-1]: 1.0})


def test_a_tree_too_deep_or_too_wide_for_the_item_numbers_is_refused() -> None:
    assert chain(6, 31.0).max_children == 31
    with pytest.raises(PipelineError, match="32 children per item; at most 31 are supported in this tree"):
        chain(6, 32.0)
    with pytest.raises(PipelineError, match="7 tasks deep"):
        chain(7)


def test_a_measured_path_that_fits_two_leaves_is_refused() -> None:
    """Paths are named by their variants alone."""
    read = Task("read", (Variant("same", 1.0, {1: row(1)}),), parent="find")
    two = (replace(FIND, variants=FIND.variants[:1]), read, replace(read, name="sort"))
    with pytest.raises(PipelineError, match="quick -> same: fits several leaf tasks"):
        Pipeline("two", 1.0, two, {"read": 0.5, "sort": 0.5}, {("quick", "same"): 0.5})

"""Values in JSON: what is read is what json reads, and nothing is built of what does not have the shape."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.serving.edge.json_data import SLICE_BYTES, CountError, ValuesError, numbers
from loki_rl.serving.edge.steps import at_once
from loki_rl.serving.transport.wire import DTYPES


def read(text: bytes, shape: list[int], datatype: str = "INT64") -> list[Any]:
    found: list[Any] = at_once(numbers(text, shape, DTYPES[datatype])).tolist()
    return found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=4), st.sampled_from([None, 0, 3]), st.booleans(), st.data())
def test_values_are_read_flat_or_nested_as_the_shape_is(
    shape: list[int], indent: int | None, flat: bool, data: st.DataObject
) -> None:
    count = math.prod(shape)
    values = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count))
    stands = values if flat or not shape else np.array(values, np.int64).reshape(shape).tolist()
    assert read(json.dumps(stands, indent=indent).encode(), shape) == values


@pytest.mark.parametrize(("datatype", "value"), [("UINT8", 255), ("FP32", 0.125), ("FP64", 1e300), ("BOOL", True)])
def test_many_values_are_read_slice_by_slice(datatype: str, value: Any) -> None:
    text = json.dumps([[value] * 1000] * 200).encode()
    steps = numbers(text, [200, 1000], DTYPES[datatype])
    assert sum(1 for _ in steps) > len(text) // (2 * SLICE_BYTES)
    assert read(text, [200, 1000], datatype) == [value] * 200_000


def test_a_value_may_be_longer_than_a_slice() -> None:
    assert read(b"[" + b" " * (3 * SLICE_BYTES) + b"1," + b" " * (3 * SLICE_BYTES) + b"2]", [2]) == [1, 2]


@pytest.mark.parametrize(
    ("text", "shape", "found"),
    [
        (b"[]", [3], 0),
        (b"[ ]", [3], 0),
        (b"[1]", [3], 1),
        (b"[1,2]", [3], 2),
        (b"[1]", [0], 1),
        (b"[[]]", [1, 1], 0),
        (b"[1]", [4294967295, 4294967295, 0], 1),
        (b"[" + b"[]," * 1_000_000 + b"[1]]", [3], 1_000_001),
        (b"[" + b"1," * 1_000_000 + b"1]", [4294967295], 1_000_001),
    ],
)
def test_values_are_counted_before_they_are_built(text: bytes, shape: list[int], found: int) -> None:
    with pytest.raises(CountError) as caught:
        read(text, shape)
    assert caught.value.found == found


@pytest.mark.parametrize(
    "text",
    [
        b"[[1],[2,3]]", b"[[1,2],3]", b"[[1,2,3]]", b'["1,2,3"]', b'["1",2,3]', b"[1,2,null]", b"[1,2,0.5]",
        b"[1,2,true]", b"[1,2,{}]", b"[1,,2]", b"[1,2,9223372036854775808]", b'[{"a":1},2,3]', b'["[,,]"]',
    ],
)  # fmt: skip
def test_what_is_no_list_of_three_values_is_refused(text: bytes) -> None:
    with pytest.raises(ValuesError):
        read(text, [3])


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (b"[[],[]]", [0]),
        (b"[[],[1]]", [2, 1]),
        (b"[[" + b" " * (2 * SLICE_BYTES) + b"],[1]]", [2, 1]),
        (b"[[1]," + b" " * (2 * SLICE_BYTES) + b"[]]", [2, 1]),
    ],
)
def test_blanks_are_no_values(text: bytes, shape: list[int]) -> None:
    with pytest.raises(ValuesError):
        read(text, shape)


@settings(max_examples=200, deadline=None)
@given(st.text("[],1 ", max_size=40), st.lists(st.integers(0, 4), max_size=3))
def test_no_text_is_more_than_a_wrong_one(text: str, shape: list[int]) -> None:
    """Where it is JSON and read, it has just those values."""
    try:
        found = read(text.encode(), shape)
    except (CountError, ValuesError):
        return
    try:
        wanted = np.array(json.loads(text), np.int64).ravel().tolist()
    except ValueError:
        return  # what is no JSON at all is not asked for
    assert found == wanted

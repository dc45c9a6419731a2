"""Every parser of what others wrote answers each input with a value or with its one error, and before long."""

from __future__ import annotations

import contextlib
import gzip
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.mutations import FORMS, mutate
from fuzz.targets import TARGETS, Target
from loki_rl.control.learned.observation import ACTIONS, OBSERVATION
from loki_rl.errors import UserError
from loki_rl.files.config import load_pipeline
from loki_rl.serving.engines.files import ModelError
from loki_rl.serving.engines.model_repository import find_model
from loki_rl.traces.trace import load_trace

CORPUS = Path(__file__).resolve().parents[2] / "fuzz" / "corpus"
# Processor time [s]: many times what any of these takes, and far below what a bomb would.
LIMIT_S = 5.0


def answer(target: Target, data: bytes) -> None:
    with contextlib.suppress(*target.errors):
        target.parse(data)


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < LIMIT_S


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_are_read(name: str) -> None:
    target = TARGETS[name]
    read = 0
    for data in target.seeds():
        with contextlib.suppress(*target.errors):
            target.parse(data)
            read += 1
    assert read


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_once_found_is_answered(name: str) -> None:
    with in_time():
        for file in sorted((CORPUS / name).glob("*")):
            answer(TARGETS[name], file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_inputs_are_answered(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    damaged = data.draw(st.sampled_from(target.seeds()))
    for seed in data.draw(st.lists(st.integers(0, 1 << 32), min_size=1, max_size=4)):
        damaged = mutate(target.form, damaged, seed)
    answer(target, damaged)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40, deadline=None)
@given(noise=st.binary(max_size=300))
def test_noise_is_answered(name: str, noise: bytes) -> None:
    answer(TARGETS[name], noise)


def test_every_target_has_a_form_that_there_is() -> None:
    assert {target.form for target in TARGETS.values()} <= FORMS.keys()
    assert {folder.name for folder in CORPUS.glob("*/")} <= TARGETS.keys()


def refused(name: str, data: bytes, message: str) -> None:
    """With its error, and before long."""
    target = TARGETS[name]
    with in_time(), pytest.raises(target.errors, match=message):
        target.parse(data)


def pipeline(variants: str) -> bytes:
    return f"name: one\nslo_ms: 100\nprovenance: assumed\ntasks: {{t: {{variants: {variants}}}}}\n".encode()


@pytest.mark.parametrize("name", ["a" * 5000, "/a" * 5000, "a\0b", "~nobody/a", "../" * 3000, "/dev/null/a"])
def test_names_that_no_file_can_have_are_refused(name: str, tmp_path: Path) -> None:
    quoted = msgspec.json.encode(name)
    text = pipeline("{v: {accuracy: 1, latency_ms: {1: 5}}}") + b"profile: " + quoted + b"\n"
    refused("pipeline", text, "does not exist|cannot be read|is not")
    refused("pool", b"types: {a: {count: 1, profile: " + quoted + b"}}\n", "does not exist|cannot be read|is not")
    for find in (load_pipeline, load_trace):
        with pytest.raises(UserError, match=r"no such|no pipeline|no trace|is a folder"):
            find(name)
    with pytest.raises(ModelError, match="there is no model"):
        find_model(tmp_path, f"{name}/{'9' * 5000}")


def test_a_batch_of_four_thousand_million_is_refused() -> None:
    text = pipeline("{v: {accuracy: 1, latency_ms: {1: 5, 4294967296: 9}}}")
    refused("pipeline", text, "a batch of 4294967296; at most 4096 items are supported")


def test_more_paths_than_can_be_looked_up_are_refused() -> None:
    variants = "{" + ", ".join(f"v{n}: {{accuracy: 1, latency_ms: {{1: 1}}, fanout: {{FAN}}}}" for n in range(50)) + "}"
    tasks = [
        f"t{n}: {{{f'parent: t{n - 1}, ' if n else ''}variants: {variants.replace('FAN', f't{n + 1}: 1' if n < 2 else '')}}}"
        for n in range(3)
    ]
    text = "name: one\nslo_ms: 100\nprovenance: assumed\ntasks:\n" + "".join(f"  {task}\n" for task in tasks)
    refused("pipeline", text.encode(), "125000 variant paths to task 't2'; at most 100000 are supported")


def test_a_thousand_tasks_are_refused() -> None:
    tasks = "".join(f"  t{n}: {{variants: {{v: {{accuracy: 1, latency_ms: {{1: 1}}}}}}}}\n" for n in range(1000))
    refused("pipeline", f"name: one\nslo_ms: 100\nprovenance: assumed\ntasks:\n{tasks}".encode(), "1000 tasks; at most 64")


def test_laughs_are_refused_and_so_are_tags() -> None:
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    refused("pool", f"a0: &a0 [ha]\n{laughs}".encode(), r"line 1: malformed YAML: anchors and aliases \('a0'\)")
    refused("pool", b"types: !!python/object:os.system {a: 1}\n", "the tag 'tag:yaml.org,2002:python/object:os.system'")


def test_a_file_that_is_far_too_large_is_refused() -> None:
    refused("faults", b"#" * (1 << 20), "is larger than 256 KB")


def test_a_trace_that_unpacks_to_a_gigabyte_is_refused() -> None:
    refused("packed_trace", gzip.compress(b"\n" * (20 << 20)), "unpacks to more than 100 times its size")
    refused("packed_trace", gzip.compress(b"t_seconds,requests\n" + b"1" * (20 << 20)), "line 2: has more than 4 MB")


def test_a_trace_of_a_thousand_million_seconds_is_refused() -> None:
    refused(
        "trace", b"t_seconds,requests\n0,1\n1000000000,1\n", "longer than a replay may last, 1e[+]07 s; take a window of it"
    )
    refused("trace", b"t_ms\n0\n1e12\n", r"1e[+]09 s are longer")


def test_a_count_that_no_type_holds_is_refused() -> None:
    header = b"HashOwner,HashApp,HashFunction,Trigger,1\n"
    refused("trace", header + b"o,a,f,http,18446744073709551616\n", "a count must lie between 0 and 1000000000")


@pytest.mark.parametrize("declared", [(1 << 40,), (1 << 20, 64)])
def test_an_agent_that_unpacks_to_gigabytes_is_refused(declared: tuple[int, ...]) -> None:
    """Whether that much is there or only said to be."""
    head = BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": declared})
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("w0.npy", head.getvalue() + bytes(0 if declared[0] >> 32 else 80 << 20))
    refused("agent", made.getvalue(), "cannot be read as an agent")


def test_an_agent_that_never_ends_is_refused() -> None:
    """Its logits are those of a loop of 2 ** 62 rounds."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    logits = helper.make_tensor_value_info("kept", types.FLOAT, [1, ACTIONS])
    rounds = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (("round", types.INT64, []), ("go", types.BOOL, []), ("before", types.FLOAT, [1, ACTIONS]))
    ]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["before"], ["kept"])],
        "body", rounds, [helper.make_tensor_value_info("on", types.BOOL, []), logits],
    )  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["mask"], ["first"], to=types.FLOAT),
        helper.make_node("Loop", ["many", "yes", "first"], ["logits"], body=body),
    ]
    many = helper.make_tensor("many", types.INT64, [], [1 << 62])
    inputs = [
        helper.make_tensor_value_info("observation", types.FLOAT, [1, OBSERVATION]),
        helper.make_tensor_value_info("mask", types.BOOL, [1, ACTIONS]),
    ]
    outputs = [helper.make_tensor_value_info("logits", types.FLOAT, [1, ACTIONS])]
    yes = helper.make_tensor("yes", types.BOOL, [], [True])
    graph = helper.make_graph(nodes, "endless", inputs, outputs, [many, yes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    agent = onnx.load_from_string(TARGETS["onnx_agent"].seeds()[0])
    model.metadata_props.extend(agent.metadata_props)
    refused("onnx_agent", model.SerializeToString(), "cannot be read as an agent: .*terminate")


@pytest.mark.parametrize("form", FORMS)
@given(noise=st.binary(max_size=50), seed=st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None)
def test_anything_can_be_damaged(form: str, noise: bytes, seed: int) -> None:
    assert mutate(form, noise, seed) == mutate(form, noise, seed)

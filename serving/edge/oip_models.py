"""What is served, in the words of Triton: a pipeline is an ensemble model whose steps are its tasks.

So a standard tool reports queue and compute time per stage. A stage is the model PIPELINE.TASK; it takes requests only
as a step of its pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable

from loki_rl.serving.edge.oip import VERSION
from loki_rl.serving.edge.oip_tensors import InferError
from loki_rl.serving.state import PlaneState, SizeCount, Stage, VariantCount
from loki_rl.serving.transport.protocol import Described, TaskVariants, Tensor

Json = dict[str, object]

NAME = "loki-rl"
EXTENSIONS = (
    "binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics", "schedule_policy",
)  # fmt: skip
PIPELINE_PLATFORM = "ensemble"
STAGE_PLATFORM = "loki_rl_stage"
_TYPES = {"BYTES": "TYPE_STRING"}
# What goes from stage to stage is made by adapters: an opaque array.
_INPUT = Tensor("input", "UINT8", (-1,))
_OUTPUT = Tensor("output", "UINT8", (-1,))


def names(described: Described) -> list[str]:
    """Every model: the pipeline, then its stages."""
    return [described.pipeline, *(stage_name(described, task.name) for task in described.tasks)]


def stage_name(described: Described, task: str) -> str:
    return f"{described.pipeline}.{task}"


def task_of(described: Described, model: str) -> TaskVariants | None:
    """The task behind the name of a stage."""
    return next((task for task in described.tasks if stage_name(described, task.name) == model), None)


def check_model(described: Described, model: str, version: str = "") -> Described:
    """What is served. Raises InferError unless this model and version (empty: any) are among it."""
    if model != described.pipeline and task_of(described, model) is None:
        raise InferError(404, f"model '{model}' is unknown, '{described.pipeline}' is served here")
    if version not in ("", VERSION):
        raise InferError(404, f"model '{model}' has no version '{version}', only '{VERSION}'")
    return described


def check_pipeline(described: Described, model: str) -> None:
    """Raises InferError for a model that clients cannot send requests to."""
    if model != described.pipeline:
        raise InferError(400, f"'{model}' takes requests only as a step of '{described.pipeline}'")


# -- metadata and configuration -------------------------------------------------------------------------------------------


def metadata(described: Described, model: str) -> Json:
    stage = task_of(described, model)
    source, result = (described.input, described.output) if stage is None else (_INPUT, _OUTPUT)
    return {
        "name": model,
        "versions": [VERSION],
        "platform": PIPELINE_PLATFORM if stage is None else STAGE_PLATFORM,
        "inputs": [_metadata(source)],
        "outputs": [_metadata(result)],
    }


def config(described: Described, model: str) -> Json:
    """As ModelConfig in Triton's model_config.proto."""
    stage = task_of(described, model)
    return _pipeline_config(described) if stage is None else _stage_config(described, stage)


def _pipeline_config(described: Described) -> Json:
    return {
        "name": described.pipeline,
        "platform": PIPELINE_PLATFORM,
        "max_batch_size": 0,
        "input": [_port(described.input) | {"optional": described.input.optional}],
        "output": [_port(described.output)],
        "ensemble_scheduling": {"step": [_step(described, task) for task in described.tasks]},
        "parameters": {"slo_ms": {"string_value": f"{1000 * described.slo_s:g}"}},
    }


def _step(described: Described, task: TaskVariants) -> Json:
    """Tensors between steps have the name of the task that makes them."""
    below = any(other.parent == task.name for other in described.tasks)
    return {
        "model_name": stage_name(described, task.name),
        "model_version": -1,
        "input_map": {_INPUT.name: task.parent or described.input.name},
        "output_map": {_OUTPUT.name: task.name if below else described.output.name},
    }


def _stage_config(described: Described, task: TaskVariants) -> Json:
    return {
        "name": stage_name(described, task.name),
        "platform": STAGE_PLATFORM,
        "max_batch_size": task.max_batch,
        "input": [_port(_INPUT)],
        "output": [_port(_OUTPUT)],
        "dynamic_batching": {},
        "parameters": {"variants": {"string_value": ",".join(task.variants)}},
    }


def _metadata(tensor: Tensor) -> Json:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _port(tensor: Tensor) -> Json:
    data_type = _TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")
    return {"name": tensor.name, "data_type": data_type, "dims": list(tensor.shape)}


def index(described: Described, ready: bool, only_ready: bool = False) -> list[Json]:
    """The model repository as it is served."""
    if only_ready and not ready:
        return []
    reason = "" if ready else "not every task has a warm variant"
    state = "READY" if ready else "UNAVAILABLE"
    return [{"name": name, "version": VERSION, "state": state, "reason": reason} for name in names(described)]


# -- statistics -----------------------------------------------------------------------------------------------------------


def statistics(described: Described, state: PlaneState, model: str | None = None) -> list[Json]:
    """Of one model, or of all; times in nanoseconds since the plane began."""
    rows = {described.pipeline: _pipeline_statistics(described, state)}
    for stage in state.stages:
        name = stage_name(described, stage.task)
        rows[name] = _stage_statistics(name, stage)
    return list(rows.values()) if model is None else [rows[model]]


def _pipeline_statistics(described: Described, state: PlaneState) -> Json:
    """Queue and compute of an ensemble are those of its steps; its own time is from arrival to answer."""
    requests = state.requests
    done = requests.latency.count
    failed = sum(requests.outcomes) - done
    return _row(described.pipeline, done, done) | {
        "inference_stats": _inference(done, requests.latency.sum_s, failed, 0.0, 0.0),
        "batch_stats": [],
    }


def _stage_statistics(name: str, stage: Stage) -> Json:
    items, batches, queue_s, compute_s = stage.total
    return _row(name, items, batches) | {
        "inference_stats": _inference(items, queue_s + compute_s, sum(stage.lost.values()), queue_s, compute_s),
        "batch_stats": _batches(stage.variants.values()),
    }


def _row(name: str, inferences: int, executions: int) -> Json:
    return {
        "name": name,
        "version": VERSION,
        "last_inference": 0,
        "inference_count": inferences,
        "execution_count": executions,
    }


def _inference(success: int, seconds: float, failed: int, queue_s: float, compute_s: float) -> Json:
    """Getting data into and out of a model is part of its measured run."""
    return {
        "success": _duration(success, seconds),
        "fail": _duration(failed, 0.0),
        "queue": _duration(success, queue_s),
        "compute_input": _duration(success, 0.0),
        "compute_infer": _duration(success, compute_s),
        "compute_output": _duration(success, 0.0),
        "cache_hit": _duration(0, 0.0),
        "cache_miss": _duration(0, 0.0),
    }


def _batches(counts: Iterable[VariantCount]) -> list[Json]:
    sizes: dict[int, SizeCount] = {}
    for count in counts:
        for size, one in count.sizes.items():
            known = sizes.setdefault(size, SizeCount())
            known.batches += one.batches
            known.seconds += one.seconds
    return [
        {
            "batch_size": size,
            "compute_input": _duration(known.batches, 0.0),
            "compute_infer": _duration(known.batches, known.seconds),
            "compute_output": _duration(known.batches, 0.0),
        }
        for size, known in sorted(sizes.items())
    ]


def _duration(count: int, seconds: float) -> Json:
    return {"count": count, "ns": round(1e9 * seconds)}

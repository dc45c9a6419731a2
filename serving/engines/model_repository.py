"""Models as a Triton repository holds them: MODEL/VERSION/model.onnx and an optional MODEL/config.pbtxt."""

from __future__ import annotations

from collections.abc import Mapping
from os.path import isdir, isfile
from pathlib import Path
from textwrap import shorten
from typing import Any

from msgspec import Struct

from loki_rl.files.tables import MAX_YAML_BYTES, ConfigError, read_text
from loki_rl.serving.engines.files import ModelError, NoModelError, model_path
from loki_rl.serving.transport.wire import DATATYPES

CONFIG = "config.pbtxt"
DEFAULT_FILE = "model.onnx"
BACKENDS = ("onnxruntime",)
PLATFORMS = ("onnxruntime_onnx",)
# Of what a parser has to say of a file, which may be most of it [letters].
_MOST_TOLD = 200
# What ONNX Runtime calls a tensor's type -> ours.
_NAMES = {"float32": "float", "float64": "double"}
ONNX_TYPES = {f"tensor({_NAMES.get(dtype.name, dtype.name)})": dtype for dtype in DATATYPES}
# Triton's types in the words of ONNX Runtime.
TYPES = {"TYPE_STRING": "tensor(string)"} | {f"TYPE_{DATATYPES[dtype]}": name for name, dtype in ONNX_TYPES.items()}


class Declared(Struct, frozen=True):
    """An input or output: its type in the words of ONNX Runtime, and its sizes, the batch first; -1 where one is open."""

    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.shape)}"

    def fits(self, other: Declared) -> bool:
        """Whether no size contradicts one of the other's."""
        sizes = zip(self.shape, other.shape, strict=False)
        alike = len(self.shape) == len(other.shape) and all(-1 in (a, b) or a == b for a, b in sizes)
        return self.datatype == other.datatype and alike


class StoredModel(Struct, frozen=True):
    """folder: of the model, with files beside its versions. max_batch: 0 for no limit. ports: inputs and outputs, as far as
    the configuration names them."""

    folder: Path
    file: Path
    max_batch: int = 0
    ports: dict[str, Declared] = {}

    def check(self, ports: Mapping[str, Declared], largest_batch: int) -> None:
        """Raise ModelError unless the model has the ports that its configuration names, and may take such a batch."""
        for name, declared in self.ports.items():
            if name not in ports or not declared.fits(ports[name]):
                has = f"is {ports[name]}" if name in ports else f"is none of its {', '.join(sorted(ports))}"
                raise ModelError(f"{self.folder / CONFIG} names '{name}' as {declared}, but in {self.file} it {has}")
        if 0 < self.max_batch < largest_batch:
            raise ModelError(
                f"{self.folder / CONFIG} allows batches of {self.max_batch}, the profile has {largest_batch}; leave the "
                "larger ones out of latency_ms, or raise max_batch_size"
            )


def find_model(repository: Path, model: str) -> StoredModel:
    """The model behind NAME, or NAME/VERSION for another version than the configured or highest one. Raises ModelError."""
    name, slash, wanted = model.partition("/")
    folder = repository / name
    config = _read_config(folder / CONFIG)
    file_name = DEFAULT_FILE if config is None else config.default_model_filename or DEFAULT_FILE
    version = wanted if slash else _version(folder, config)
    file = folder / str(version) / file_name
    if version is None or (slash and not wanted.isdecimal()) or not isfile(file):
        raise NoModelError(f"there is no model {_expected(repository, name, slash, wanted, file_name)}")
    if config is None:
        return StoredModel(folder, file)
    batch = (-1,) if config.max_batch_size else ()
    ports = {port.name: _declared(port, batch) for port in (*config.input, *config.output)}
    return StoredModel(folder, file, config.max_batch_size, ports)


def _expected(repository: Path, name: str, slash: str, wanted: str, file_name: str) -> Path:
    return repository / name / wanted / file_name if slash else model_path(repository, name).with_name(file_name)


def _version(folder: Path, config: Any) -> int | None:
    """The highest version, of those that the configuration serves."""
    there = [int(path.name) for path in folder.glob("*/") if path.name.isdecimal()] if isdir(folder) else []
    if config is not None and config.version_policy.WhichOneof("policy_choice") == "specific":
        there = [version for version in there if version in config.version_policy.specific.versions]
    return max(there, default=None)


def _read_config(path: Path) -> Any:
    """The ModelConfig in a file, None if there is no file. Raises ModelError."""
    if not isfile(path):
        return None
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        raise ModelError(f"reading {path} needs the extra loki-rl[grpc]; install it, or move the file away") from None
    try:
        text = read_text(path, MAX_YAML_BYTES)
        config = text_format.Parse(text, model_config_pb2.ModelConfig(), allow_unknown_field=True)
    except ConfigError as error:
        raise ModelError(str(error)) from None
    except (text_format.ParseError, RecursionError) as error:
        why = shorten(str(error), _MOST_TOLD, placeholder="...")
        raise ModelError(f"{path} is not a model configuration: {why}") from None
    if (config.backend or BACKENDS[0]) not in BACKENDS or (config.platform or PLATFORMS[0]) not in PLATFORMS:
        raise ModelError(f"{path} is for '{config.backend or config.platform}'; only ONNX models can be served")
    if config.max_batch_size < 0:
        raise ModelError(f"{path}: max_batch_size must be at least 0, not {config.max_batch_size}")
    file = config.default_model_filename
    if Path(file).name != file:
        raise ModelError(f"{path}: default_model_filename must be a file's name alone, not '{file}'")
    return config


def _declared(port: Any, batch: tuple[int, ...]) -> Declared:
    """batch: the axis that stands in no configuration of a model that batches."""
    sizes = port.reshape.shape if port.HasField("reshape") else port.dims
    return Declared(TYPES.get(_type(port), "of a type that ONNX has not"), (*batch, *map(int, sizes)))


def _type(port: Any) -> str:
    return str(type(port).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[port.data_type].name)

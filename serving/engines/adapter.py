"""What a model needs around it: payload to input tensors, output tensors to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from loki_rl.errors import UserError

T = TypeVar("T")
Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]


class PayloadError(ValueError):
    """A payload cannot be served; the message is one sentence for whoever sent it."""


class AdapterError(UserError):
    """An adapter cannot be built from its name, options or model; the message says which."""


class Port(Struct, frozen=True):
    """One input or output of a model, by its name. dtype: numpy's name of its type. shape: a str or None where the model
    leaves the size open; axis 0 is the batch."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str


class SessionIO(Struct, frozen=True):
    """What an adapter may know of its model. inputs, outputs: what it takes and gives, in its own order. folder: where the
    model and files beside it (a dictionary) lie. fixed: whether all items should have one shape, as on a GPU, which prepares
    itself for every shape anew."""

    folder: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    fixed: bool = False


class Prepared(Struct, frozen=True):
    """inputs: input name -> tensor of one item, without the batch axis; items of one shape run together. kept: whatever
    `finish` wants back."""

    inputs: dict[str, Array]
    kept: Any = None


class Produced(Struct, frozen=True):
    """What became of one payload: children, or an output at a leaf, or what went wrong with it.

    children: for each child task, in the order of the pipeline file, the payloads for it. output: an array of any shape.
    error: one sentence; then there are no children and no output. to_blame: whether it is the payload that is at fault.
    """

    children: tuple[list[Array], ...] = ()
    output: Array | None = None
    error: str | None = None
    to_blame: bool = True


class Adapter(Protocol):
    """Translates single items; the engine makes batches of them. It keeps no state between calls. A payload is an array of
    whatever shape clients send, or the adapter of the parent task makes for it.

    The class may say what clients send and get, as protocol.Tensor: `takes`, of an entry task (else a picture, "image";
    numbers of another type or shape are refused), and `gives`, of a leaf task (else "text"; always BYTES, one element per
    leaf).
    """

    def __init__(self, io: SessionIO, options: Mapping[str, object]) -> None:
        """io: what is known of the model. options: as the pipeline file has them. Raise AdapterError if they do not fit."""

    @staticmethod
    def check(payload: Array) -> None:
        """Raise PayloadError for a payload that `prepare` would refuse; cheap and without a model, so that a gateway can
        ask."""

    def sample(self) -> Array:
        """A valid payload, for warm-up and for measuring."""

    def prepare(self, payload: Array) -> Prepared:
        """Input tensors of one item. payload: what a client sent, or the parent task's adapter made for it. Raises
        PayloadError."""

    def finish(self, outputs: Mapping[str, Array], kept: Any) -> Produced:
        """Result of one item. outputs: output name -> its rows, without the batch axis. kept: what `prepare` kept."""


def named(name: str) -> Any:
    """What "module:name" stands for; raises ImportError."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ImportError("it must read module:name")
    try:
        return getattr(import_module(module), attribute)
    except AttributeError as error:
        raise ImportError(str(error)) from error
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; is its folder on PYTHONPATH?") from error


def adapter_class(name: str) -> type[Adapter]:
    """The class behind "module:Class"; raises AdapterError."""
    try:
        return cast("type[Adapter]", named(name))
    except ImportError as error:
        raise AdapterError(f"adapter '{name}' cannot be loaded: {error}") from error


def parse_options(options: Mapping[str, object], kind: type[T]) -> T:
    """Options of a pipeline file as a Struct (which should forbid unknown fields); raises AdapterError."""
    try:
        return msgspec.convert(dict(options), kind)
    except msgspec.ValidationError as error:
        raise AdapterError(f"adapter options: {error}") from error


def alike(items: Sequence[Mapping[str, Array]]) -> list[list[int]]:
    """The places of items whose tensors have the same shapes, group by group."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(tuple(tensor.shape for tensor in item.values()), []).append(place)
    return list(groups.values())

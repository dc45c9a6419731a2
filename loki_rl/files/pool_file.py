"""Pool files: a YAML file of server types, with the profiles that it names, becomes frozen Structs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Annotated

from msgspec import Struct

from loki_rl.core.pipeline import PipelineError
from loki_rl.core.servers.server_type import Figures, ServerType, TypeProfile, as_run_by
from loki_rl.files.config import PipelineFile, beside, find_file
from loki_rl.files.profile_file import ProfileFile, by_variant, load_profile
from loki_rl.files.tables import ConfigError, nearest, read_yaml, require, table
from loki_rl.options import Help

FOLDER = "pipelines/pools"

# What comes after a plus is for whoever runs on it to know.
_DEVICE = re.compile(r"cpu(\+\d+)?|(cuda|tensorrt)(\+\w+)?:\d+")


class TypeTable(Struct, frozen=True):
    """A type of servers: `types: {NAME: ...}`."""

    count: Annotated[int, Help("Servers of the type; 0 for none now.")]
    price: Annotated[
        float,
        Help(
            "Of one server, in any unit that all types share. A plan that serves all with the most accurate models is the "
            "cheapest one that does."
        ),
    ] = 1.0
    memory_mb: Annotated[
        float | None,
        Help(
            "A variant that needs more cannot run on the type, and a session takes no more of a GPU [MB]. Without: no "
            "limit."
        ),
    ] = None
    speed: Annotated[
        float | None, Help("How many times as fast as the pipeline's own figures say. Without a profile: 1.")
    ] = None
    profile: Annotated[
        str | dict[str, str] | None,
        Help(
            "What 'loki-rl profile' measured there: a file, or one per pipeline; it starts at the folder of this file. "
            "Variants that it does not have cannot run there."
        ),
    ] = None
    devices: Annotated[
        list[str],
        Help(
            "Where 'loki-rl serve' runs their models, in turn: cpu, cuda:N, cuda+graphs:N, tensorrt:N or tensorrt+fp16:N. "
            "Without: as its --device says."
        ),
    ] = []


class PoolTable(Struct, frozen=True):
    """A pool file."""

    types: Annotated[dict[str, object], Help("Name (one word) to type; see below.")]


class Pool(Struct, frozen=True):
    """types: of the servers. measured: type -> pipeline -> the profile that the file names for it. files: all that were
    read."""

    types: tuple[ServerType, ...] = ()
    measured: dict[str, dict[str, ProfileFile]] = {}
    files: tuple[Path, ...] = ()

    @property
    def servers(self) -> int:
        return sum(kind.count for kind in self.types)


def load_pool(path: str | Path, pipelines: Sequence[PipelineFile]) -> Pool:
    """Load a pool file, or one in pipelines/pools by its bare name, for pipelines that will share the servers.

    Paths of profiles start at the file's own folder. Raises ConfigError, one sentence, for everything that is wrong with the
    file, or with a profile for one of the pipelines.
    """
    file = find_file(path, FOLDER, "pool")
    head = table(read_yaml(file), PoolTable, str(file))
    if not head.types:
        raise ConfigError(f"{file}: no type of servers; add one under 'types'")
    texts = {name: table(data, TypeTable, f"{file}, type '{name}'") for name, data in head.types.items()}
    for name, text in texts.items():
        _check(text, name, f"{file}, type '{name}'")
    if not any(text.count for text in texts.values()):
        raise ConfigError(f"{file}: there is no server of any type; raise a count")
    named = {name: _profiles(text, file, f"{file}, type '{name}'", pipelines) for name, text in texts.items()}
    measured = {
        name: {pipeline: load_profile(path, f"{file}, type '{name}'", pipeline) for pipeline, path in paths.items()}
        for name, paths in named.items()
    }
    kinds = (_type(f"{file}, type '{name}'", name, text, measured[name], pipelines) for name, text in texts.items())
    return Pool(tuple(kinds), measured, (file, *(path for paths in named.values() for path in paths.values())))


def _type(
    where: str, name: str, text: TypeTable, measured: dict[str, ProfileFile], pipelines: Sequence[PipelineFile]
) -> ServerType:
    profiles = {one.name: _profile(measured[one.name], where, one) for one in pipelines if one.name in measured}
    kind = ServerType(
        name=name,
        count=text.count,
        price=text.price,
        memory_mb=inf if text.memory_mb is None else text.memory_mb,
        speed=text.speed or (None if profiles else 1.0),
        profiles=profiles,
        devices=tuple(text.devices),
    )
    for pipeline in pipelines:
        try:
            as_run_by(pipeline.pipeline, kind)
        except PipelineError as error:
            raise ConfigError(f"{where}: {error}") from error
    return kind


def _check(text: TypeTable, name: str, where: str) -> None:
    require(re.fullmatch(r"[\w.-]+", name) is not None, where, "the name must be one word")
    require(text.count >= 0, where, f"count must be at least 0, not {text.count}")
    for key, value in (("price", text.price), ("memory_mb", text.memory_mb), ("speed", text.speed)):
        require(value is None or value > 0, where, f"{key} must be above 0, not {value}")
    for device in text.devices:
        formed = _DEVICE.fullmatch(device) is not None
        require(formed, where, f"the device '{device}' must be cpu, cpu+N, cuda:N or tensorrt:N, as in cuda:0")
    kinds = {device.partition(":")[0] for device in text.devices}
    require(
        len(kinds) < 2, where, f"servers of one type are alike: name devices of one kind, not {' and '.join(sorted(kinds))}"
    )
    require(len(set(text.devices)) == len(text.devices), where, "a device stands twice")
    few = len(text.devices) <= max(1, text.count)
    require(few, where, f"{len(text.devices)} devices for {text.count} servers; raise count")


def _profiles(text: TypeTable, file: Path, where: str, pipelines: Sequence[PipelineFile]) -> dict[str, Path]:
    """Pipeline -> the profile that a type names for it."""
    names = [pipeline.name for pipeline in pipelines]
    named = text.profile or {}
    if isinstance(named, str):
        require(len(names) == 1, where, f"'profile' must name a file for each of {', '.join(names)}: {{{names[0]}: FILE}}")
        named = {names[0]: named}
    # A pool may know more pipelines than are planned now.
    return {name: beside(file.parent, named[name]) for name in names if name in named}


def _profile(measured: ProfileFile, where: str, pipeline: PipelineFile) -> TypeProfile:
    own = {(spec.name, variant) for spec in pipeline.tree for variant in spec.variants}
    figures = {
        key: Figures(one.latency, one.load_s, one.memory_mb, one.sample_s)
        for key, one in by_variant(measured).items()
        if one.latency and key in own  # it may be older than the pipeline's file
    }
    if not figures:
        names = sorted({f"{row.task}/{row.variant}" for row in measured.variants})
        wanted = "/".join(min(own))
        raise ConfigError(
            f"{where}: its profile measured no variant of '{pipeline.name}', such as {wanted}{nearest(wanted, names)}"
        )
    return TypeProfile(figures, measured.padded)

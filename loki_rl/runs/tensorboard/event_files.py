"""TensorBoard event files, written without TensorFlow or torch."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb, hparams_pb
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

# Every run claims to begin at this instant (2000-01-01 UTC): so the curves of two runs overlay on TensorBoard's wall-clock
# axis as well, its relative axis is trace time, and equal runs give equal bytes.
ORIGIN_S = 946_684_800.0
PREFIX, OURS = "events.out.tfevents", "loki-rl"
ROOT_FILE = f"{PREFIX}.0.{OURS}"

Event = Any  # TensorBoard publishes no type information
Value = str | int | float | bool


def replace_events(folder: Path, events: Iterable[Event]) -> None:
    """Write our only event file of a folder, which is made if need be; those of other programs stay. Its name is new each
    time, since a TensorBoard that is looking reads a file of a known name on from where it stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    old = _ours(folder)
    _write(folder / _fresh(), events)
    for path in old:
        path.unlink(missing_ok=True)


def _ours(folder: Path) -> list[Path]:
    return list(folder.glob(f"{PREFIX}.*.{OURS}"))


def _fresh() -> str:
    return f"{PREFIX}.{time.time_ns()}.{OURS}"


class Stream:
    """Our only event file of a folder, of a run that goes on. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in _ours(folder):
            old.unlink(missing_ok=True)
        self._file = (folder / _fresh()).open("wb")
        self._writer = RecordWriter(self._file)
        self._writer.write(_version())

    def write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Show TensorBoard what there is."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def write_once(folder: Path, events: Iterable[Event]) -> None:
    """Write what holds for all runs below a folder, unless it is there already."""
    if not (folder / ROOT_FILE).exists():
        _write(folder / ROOT_FILE, events)


def _write(path: Path, events: Iterable[Event]) -> None:
    # Several processes may write the same file: each makes its own and the last rename counts.
    own = path.with_name(f".{path.name}.{os.getpid()}")
    with own.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(_version())
        for event in events:
            writer.write(event.SerializeToString())
    own.replace(path)


def _version() -> bytes:
    return bytes(event_pb2.Event(wall_time=ORIGIN_S, file_version="brain.Event:2").SerializeToString())


def scalars(step: int, values: Mapping[str, float], described: Mapping[str, str] | None = None) -> Event:
    """The points of all tags at one step, a second of trace time. described: what they mean, which TensorBoard takes from
    the first point of a tag."""
    summary = summary_pb2.Summary()
    for tag, value in values.items():
        point = summary.value.add(tag=tag, simple_value=value)
        if described is not None and tag in described:
            # TensorBoard forgets what has no class of data.
            point.metadata.CopyFrom(scalar_metadata.create_summary_metadata("", described[tag]))
            point.metadata.data_class = summary_pb2.DATA_CLASS_SCALAR
    return event_pb2.Event(wall_time=ORIGIN_S + step, step=step, summary=summary)


def text(tag: str, markdown: str, description: str = "") -> Event:
    """A card on the text page."""
    summary = summary_pb2.Summary()
    value = summary.value.add(tag=tag, metadata=text_metadata.create_summary_metadata("", description))
    value.tensor.dtype = 7  # DT_STRING
    value.tensor.tensor_shape.SetInParent()
    value.tensor.string_val.append(markdown.encode())
    return event_pb2.Event(wall_time=ORIGIN_S, summary=summary)


def image(tag: str, png: bytes, description: str = "") -> Event:
    """A picture on the images page."""
    # A PNG begins with its signature and the header that tells its size.
    width, height = struct.unpack(">II", png[16:24])
    summary = summary_pb2.Summary()
    value = summary.value.add(tag=tag)
    value.image.width, value.image.height, value.image.colorspace = width, height, 4
    value.image.encoded_image_string = png
    value.metadata.CopyFrom(image_metadata.create_summary_metadata("", description))
    value.metadata.data_class = summary_pb2.DATA_CLASS_BLOB_SEQUENCE
    return event_pb2.Event(wall_time=ORIGIN_S, summary=summary)


def layout(lines: Mapping[str, Sequence[str]], margins: Mapping[str, tuple[str, str, str]]) -> Event:
    """The custom-scalars page. lines: title of a chart -> its tags, of every run that is chosen; margins: title of a chart
    -> tags of the middle, the lower and the upper end of a band."""
    policies = layout_pb2.Category(
        title="policies side by side",
        chart=[
            layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=list(tags)))
            for title, tags in lines.items()
        ],
    )
    series = layout_pb2.MarginChartContent.Series
    seeds = layout_pb2.Category(
        title="over seeds",
        chart=[
            layout_pb2.Chart(
                title=title,
                margin=layout_pb2.MarginChartContent(series=[series(value=middle, lower=lower, upper=upper)]),
            )
            for title, (middle, lower, upper) in margins.items()
        ],
    )
    content = layout_pb2.Layout(category=[policies, seeds])
    summary = summary_pb2.Summary()
    value = summary.value.add(tag=layout_metadata.CONFIG_SUMMARY_TAG, metadata=layout_metadata.create_summary_metadata())
    value.tensor.dtype = 7  # DT_STRING
    value.tensor.tensor_shape.SetInParent()
    value.tensor.string_val.append(content.SerializeToString())
    return event_pb2.Event(wall_time=ORIGIN_S, summary=summary)


def experiment(options: Iterable[str], metrics: Mapping[str, str]) -> Event:
    """What the hparams page shows: names of the options, tags of the metrics and what they mean."""
    summary = hparams_config_pb(
        hparams=[HParam(name) for name in options],
        metrics=[Metric(tag, description=meaning) for tag, meaning in metrics.items()],
        time_created_secs=ORIGIN_S,
    )
    return event_pb2.Event(wall_time=ORIGIN_S, summary=summary)


def session_start(options: Mapping[str, Value], group: str) -> Event:
    """The options of a run; group: which run it is on the hparams page."""
    summary = hparams_pb(dict(options), trial_id=group, start_time_secs=ORIGIN_S)
    return event_pb2.Event(wall_time=ORIGIN_S, summary=summary)


def session_end(seconds: float) -> Event:
    """The run has ended well, this long after it began."""
    data = plugin_data_pb2.HParamsPluginData(
        session_end_info=plugin_data_pb2.SessionEndInfo(status=1, end_time_secs=ORIGIN_S + seconds)
    )
    summary = summary_pb2.Summary()
    summary.value.add(
        tag=hparams_metadata.SESSION_END_INFO_TAG,
        metadata=hparams_metadata.create_summary_metadata(data),
        tensor=hparams_metadata.NULL_TENSOR,
    )
    return event_pb2.Event(wall_time=ORIGIN_S + seconds, summary=summary)

"""Pictures of an episode: a few lines of text, or a small raster. Owns how it looks; knows no dynamics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from loki_rl.control.fast.model_arrays import Floats
from loki_rl.env.fluid.dynamics import ACCURACY, ARRIVALS, LOST, OK, USED

BARS = "▁▂▃▄▅▆▇█"
WIDTH, HEIGHT, LEFT = 480, 270, 8
SHOWN = 60
COLOURS = {"demand": (60, 90, 160), "target": (230, 140, 30), "lost": (200, 40, 40), "servers": (60, 140, 80)}


class Frame(Struct, frozen=True, eq=False):
    """One interval: its figures (env.fluid), the demand planned for [1/s], its length [s]."""

    figures: Floats
    target_rps: float
    interval_s: float

    @property
    def demand_rps(self) -> float:
        return float(self.figures[ARRIVALS]) / self.interval_s

    @property
    def lost_share(self) -> float:
        return float(self.figures[LOST]) / max(1.0, float(self.figures[ARRIVALS]))


def ansi(frames: Sequence[Frame], servers: int) -> str:
    """A dashboard of the last minute of intervals."""
    shown = frames[-SHOWN:]
    if not shown:
        return "no interval yet"
    last = shown[-1]
    ok = max(1.0, float(last.figures[OK]))
    return "\n".join(
        (
            f"demand  {_sparks([frame.demand_rps for frame in shown])} {last.demand_rps:.1f}/s",
            f"target  {_sparks([frame.target_rps for frame in shown])} {last.target_rps:.1f}/s",
            f"lost    {_sparks([frame.lost_share for frame in shown])} {100 * last.lost_share:.2f} %",
            f"servers {'#' * round(last.figures[USED])}{'.' * (servers - round(last.figures[USED]))}",
            f"accuracy {last.figures[ACCURACY] / ok:.4f}",
        )
    )


def _sparks(values: Sequence[float]) -> str:
    most = max(values) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int(len(BARS) * value / most))] for value in values)


def picture(frames: Sequence[Frame], servers: int) -> NDArray[np.uint8]:
    """[HEIGHT, WIDTH, 3]: demand and target, servers, and lost share over the last intervals, from top to bottom."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    shown = list(frames[-SHOWN:])
    if shown:
        most = max(max(frame.demand_rps, frame.target_rps) for frame in shown)
        _curve(draw, [frame.demand_rps / most for frame in shown], 0, "demand")
        _curve(draw, [frame.target_rps / most for frame in shown], 0, "target")
        _curve(draw, [float(frame.figures[USED]) / servers for frame in shown], 1, "servers")
        _curve(draw, [frame.lost_share for frame in shown], 2, "lost")
    return np.asarray(image, dtype=np.uint8).copy()


def _curve(draw: ImageDraw.ImageDraw, shares: Sequence[float], row: int, name: str) -> None:
    """Shares 0..1 as a line in the given third of the picture."""
    tall = HEIGHT // 3
    step = (WIDTH - 2 * LEFT) / SHOWN
    points = [(LEFT + step * i, row * tall + tall - 6 - (tall - 12) * min(1.0, share)) for i, share in enumerate(shares)]
    draw.line([*points, points[-1]] if len(points) == 1 else points, fill=COLOURS[name], width=2)
    draw.text((LEFT, row * tall + 2), name, fill=COLOURS[name])

"""Pictures and crops as payloads: decoding, sizing, normalising and packing pixels."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from PIL import Image

from loki_rl.serving.engines.adapter import Array, PayloadError, Pixels

FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 40_000_000
# A JPEG that is larger is decoded at half, a quarter or an eighth of its size, but never below this: text stays legible.
DRAFT_SIZE = (1600, 1600)
# No recogniser looks at more; taller or wider crops would only be carried around.
CROP_HEIGHT, CROP_WIDTH = 48, 480
HEADER = np.dtype([("box", "<f4", 4), ("height", "<u2"), ("width", "<u2")])

Box = tuple[float, float, float, float]


class Crop(Struct, frozen=True):
    """box: x0, y0, x1, y1 [pixels of the whole picture]. pixels: uint8 [h <= CROP_HEIGHT, w <= CROP_WIDTH, 3]."""

    box: Box
    pixels: Pixels


def check_picture(payload: Array) -> None:
    """Raise PayloadError unless this is an encoded picture (uint8 [n]) or RGB pixels (uint8 [H, W, 3])."""
    if payload.dtype != np.uint8:
        raise PayloadError(f"a picture must be of type uint8, not {payload.dtype}")
    if payload.ndim == 1:
        width, height = _open(payload).size
    elif payload.ndim == 3 and payload.shape[2] == 3 and payload.size:
        height, width = payload.shape[:2]
    else:
        raise PayloadError(f"a picture must have shape [bytes] or [height, width, 3], not {list(payload.shape)}")
    if width * height > MAX_PIXELS:
        raise PayloadError(f"a picture of {width} x {height} is above the limit of {MAX_PIXELS // 1_000_000} megapixels")


def decode(payload: Array) -> tuple[Image.Image, float]:
    """The picture in RGB, and how many original pixels one of its pixels stands for; raises PayloadError."""
    check_picture(payload)
    if payload.ndim == 3:
        return Image.fromarray(np.ascontiguousarray(payload)), 1.0
    picture = _open(payload)
    width = picture.width
    picture.draft("RGB", DRAFT_SIZE)
    try:
        picture.load()
    except Exception as error:  # for broken data Pillow raises whatever its decoders stumble over, IndexError among it
        raise PayloadError(f"the picture cannot be decoded: {error or type(error).__name__}") from error
    return picture if picture.mode == "RGB" else picture.convert("RGB"), width / picture.width


def _open(payload: Array) -> Image.Image:
    try:
        return Image.open(BytesIO(payload.tobytes()), formats=FORMATS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PayloadError(f"the payload is not a {' or '.join(FORMATS)} picture") from error


def normalised(picture: Image.Image, scale: Array, bias: Array) -> npt.NDArray[np.float32]:
    """[3, H, W] = pixel * scale + bias for each of blue, green, red; the order these models were trained in."""
    planes = np.empty((3, picture.height, picture.width), np.float32)
    for plane, band, factor, offset in zip(planes, reversed(picture.split()), scale, bias, strict=True):
        np.multiply(np.asarray(band), factor, out=plane)
        plane += offset
    return planes


def shrunk(picture: Image.Image, width: int, height: int, resampling: Image.Resampling) -> Image.Image:
    """Resized, with a cheap average first where the picture is at least twice as large."""
    if picture.size == (width, height):
        return picture
    # Asking for the average costs a small crop as much as its resizing, even where none is made.
    gap = 1.0 if picture.width >= 2 * width or picture.height >= 2 * height else None
    return picture.resize((width, height), resampling, reducing_gap=gap)


# -- crops ------------------------------------------------------------------------------------------------------------


def cut(picture: Image.Image, box: Box, zoom: float) -> Crop:
    """The crop at `box` [pixels of this picture]; zoom: original pixels per pixel."""
    part = picture.crop((round(box[0]), round(box[1]), round(box[2]), round(box[3])))
    ratio = min(1.0, CROP_HEIGHT / part.height)
    size = (min(CROP_WIDTH, max(1, round(part.width * ratio))), max(1, round(part.height * ratio)))
    x0, y0, x1, y1 = (edge * zoom for edge in box)
    return Crop((x0, y0, x1, y1), np.asarray(shrunk(part, *size, Image.Resampling.BILINEAR)))


def pack(crop: Crop) -> Pixels:
    """A crop as one flat payload: HEADER, then its pixels."""
    header = np.array([(crop.box, *crop.pixels.shape[:2])], HEADER)
    return np.concatenate([header.view(np.uint8), crop.pixels.reshape(-1)])


def check_crop(payload: Array) -> None:
    """Raise PayloadError unless `pack` made this."""
    if payload.dtype != np.uint8 or payload.ndim != 1 or payload.size < HEADER.itemsize:
        raise PayloadError(f"a crop must be a flat uint8 payload, not {payload.dtype} of shape {list(payload.shape)}")
    header = payload[: HEADER.itemsize].view(HEADER)[0]
    height, width = int(header["height"]), int(header["width"])
    if not height or not width or payload.size != HEADER.itemsize + height * width * 3:
        raise PayloadError(f"a crop of {width} x {height} does not fit a payload of {payload.size} bytes")


def unpack(payload: Array) -> Crop:
    """The crop in a payload of `pack`, its pixels not copied; raises PayloadError."""
    check_crop(payload)
    header = payload[: HEADER.itemsize].view(HEADER)[0]
    x0, y0, x1, y1 = map(float, header["box"])
    pixels = payload[HEADER.itemsize :].reshape(int(header["height"]), int(header["width"]), 3)
    return Crop((x0, y0, x1, y1), pixels)

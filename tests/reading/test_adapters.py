from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from loki_rl.reading import pictures
from loki_rl.reading.detection import DetectionOptions, TextDetection, find_boxes
from loki_rl.reading.pictures import Crop, check_crop, check_picture, cut, decode, pack, unpack
from loki_rl.reading.recognition import Reading, TextRecognition, recogniser_input
from loki_rl.serving.engines.adapter import AdapterError, Array, PayloadError, Port, SessionIO, adapter_class

DETECTION = SessionIO(
    Path(),
    (Port("x", ("N", 3, "H", "W"), "float32"),),
    (Port("map", ("N", 1, "H", "W"), "float32"),),
)


def picture(width: int = 96, height: int = 64, kind: str = "PNG") -> Array:
    out = BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(out, kind)
    return np.frombuffer(out.getvalue(), np.uint8)


def recognition(folder: Path, signs: str = "ab", width: int = 96, **options: object) -> TextRecognition:
    (folder / "signs.txt").write_text("\n".join(signs) + "\n", encoding="utf-8")
    outputs = (Port("y", ("N", "T", len(signs) + 2), "float32"),)
    inputs = (Port("x", ("N", 3, 48, "W"), "float32"),)
    return TextRecognition(SessionIO(folder, inputs, outputs), {"width": width, "dictionary": "signs.txt"} | options)


# -- pictures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_encoded_pictures_are_decoded(kind: str) -> None:
    image, zoom = decode(picture(kind=kind))
    assert (image.size, image.mode, zoom) == ((96, 64), "RGB", 1.0)
    assert np.abs(np.asarray(image)[0, 0].astype(int) - (200, 100, 50)).max() < 8


def test_pixels_are_taken_as_they_are() -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image, zoom = decode(pixels)
    assert np.array_equal(np.asarray(image), pixels)
    assert zoom == 1.0


def test_large_jpeg_is_decoded_smaller_and_boxes_stay_in_its_own_pixels() -> None:
    image, zoom = decode(picture(3400, 3200, "JPEG"))
    assert (image.size, zoom) == ((1700, 1600), 2.0)
    assert cut(image, (10, 20, 110, 40), zoom).box == (20.0, 40.0, 220.0, 80.0)


def test_greyscale_and_transparent_pictures_become_rgb() -> None:
    for mode in ("L", "RGBA", "P"):
        out = BytesIO()
        Image.new(mode, (8, 8)).save(out, "PNG")
        assert decode(np.frombuffer(out.getvalue(), np.uint8))[0].mode == "RGB"


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (np.zeros((4, 4, 3), np.float32), "must be of type uint8, not float32"),
        (np.zeros((4, 4), np.uint8), r"shape \[bytes\] or \[height, width, 3\], not \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"not \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"not \[0, 4, 3\]"),
        (np.zeros(0, np.uint8), "not a JPEG or PNG picture"),
        (np.frombuffer(b"GIF89a" + bytes(40), np.uint8), "not a JPEG or PNG picture"),
    ],
)
def test_a_wrong_picture_is_refused_with_a_sentence(payload: Array, sentence: str) -> None:
    for refuse in (check_picture, decode):
        with pytest.raises(PayloadError, match=sentence) as caught:
            refuse(payload)
        assert "\n" not in str(caught.value)


def test_truncated_picture() -> None:
    whole = picture(640, 480, "JPEG")
    check_picture(whole[:700])  # its head is sound, and a gateway looks no further
    with pytest.raises(PayloadError, match="cannot be decoded"):
        decode(whole[: len(whole) // 2])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_bytes_never_raise_anything_else(kind: str) -> None:
    whole = picture(64, 48, kind)
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = whole.copy()
        damaged[rng.integers(0, damaged.size, 3)] = rng.integers(0, 256, 3)
        with suppress(PayloadError):
            decode(damaged)


def test_enormous_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    with pytest.raises(PayloadError, match="96 x 64 is above the limit"):
        check_picture(picture())


def test_crop_survives_packing() -> None:
    crop = Crop((1.5, 2.0, 33.0, 12.25), np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    found = unpack(pack(crop))
    assert found.box == crop.box
    assert np.array_equal(found.pixels, crop.pixels)


@pytest.mark.parametrize("damage", [lambda p: p[:-1], lambda p: p[:10], lambda p: p.astype(np.int32), lambda p: p[None]])
def test_damaged_crop_is_refused(damage: Callable[[Array], Array]) -> None:
    payload = damage(pack(Crop((0.0, 0.0, 1.0, 1.0), np.zeros((4, 4, 3), np.uint8))))
    with pytest.raises(PayloadError, match="crop"):
        check_crop(payload)


def test_a_tall_crop_is_carried_no_taller_than_a_recogniser_looks() -> None:
    image = Image.new("RGB", (4000, 400))
    assert cut(image, (0, 0, 4000, 400), 1.0).pixels.shape == (48, 480, 3)
    assert cut(image, (0, 0, 60, 20), 1.0).pixels.shape == (20, 60, 3)


# -- detection ----------------------------------------------------------------------------------------------------------


def test_boxes_of_a_map() -> None:
    options = DetectionOptions(64, 96)
    chart = np.zeros((64, 96), np.float32)
    chart[10:16, 20:60] = 0.9
    chart[40:46, 5:25] = 0.3  # text for the threshold, but too weak a box
    chart[50, 50] = 1.0  # a speck
    margin = 40 * 6 * 0.7 / (2 * 46)
    assert find_boxes(chart, options) == [pytest.approx((20 - margin, 10 - margin, 60 + margin, 16 + margin))]
    assert find_boxes(np.zeros((64, 96), np.float32), options) == []


def test_boxes_stay_inside_and_within_the_limit() -> None:
    assert find_boxes(np.ones((32, 64), np.float32), DetectionOptions(32, 64)) == [(0.0, 0.0, 64.0, 32.0)]
    stripes = np.zeros((320, 32), np.float32)
    stripes[:, 4:28].reshape(80, 4, 24)[:, :2] = 1.0
    assert len(find_boxes(stripes, DetectionOptions(320, 32, limit=5))) == 5


def test_detection_makes_crops_in_pixels_of_the_picture() -> None:
    adapter = TextDetection(DETECTION, {"height": 32, "width": 64})
    prepared = adapter.prepare(np.full((320, 640, 3), 255, np.uint8))
    assert prepared.inputs["x"].shape == (3, 32, 64)
    assert prepared.inputs["x"].dtype == np.float32
    white = [(1 - mean) / deviation for mean, deviation in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert prepared.inputs["x"][:, 3, 3] == pytest.approx(white, rel=1e-4)
    chart = np.zeros((1, 32, 64), np.float32)
    chart[0, 8:12, 10:30] = 1.0
    (crops,) = adapter.finish({"map": chart}, prepared.kept).children
    margin = 10 * 4 * 20 * 0.7 / (2 * 24)
    assert unpack(crops[0]).box == pytest.approx((100 - margin, 80 - margin, 300 + margin, 120 + margin), abs=0.01)
    assert adapter.finish({"map": chart * 0}, prepared.kept).children == ([],)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"height": 30, "width": 64}, "multiples of 32"),
        ({"height": 0, "width": 64}, "multiples of 32"),
        ({"width": 64}, "height"),
        ({"height": 32, "width": 64, "colour": 1}, "colour"),
    ],
)
def test_detection_options(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(AdapterError, match=sentence):
        TextDetection(DETECTION, options)


# -- recognition ----------------------------------------------------------------------------------------------------------


def test_ctc_decoding(tmp_path: Path) -> None:
    adapter = recognition(tmp_path)
    steps = [0, 1, 1, 0, 1, 3, 3, 2, 0]  # blank a a blank a space space b blank
    rows = np.full((len(steps), 4), 0.1, np.float32)
    rows[np.arange(len(steps)), steps] = 0.7
    text, score = adapter.decode(rows)
    assert text == "aa b"
    assert score == pytest.approx(0.7)
    assert adapter.decode(np.eye(4, dtype=np.float32)[[0, 0]]) == ("", 0.0)


def test_recognition_answers_with_text_score_and_box(tmp_path: Path) -> None:
    adapter = recognition(tmp_path)
    prepared = adapter.prepare(pack(Crop((1.0, 2.0, 3.0, 4.0), np.full((20, 20, 3), 255, np.uint8))))
    tensor = prepared.inputs["x"]
    assert tensor.shape == (3, 48, 96)
    assert tensor[:, :, :48] == pytest.approx(1.0)
    assert not tensor[:, :, 48:].any()
    output = adapter.finish({"y": np.eye(4, dtype=np.float32)[[1, 2]]}, prepared.kept).output
    assert output is not None
    assert output.dtype == np.uint8
    assert msgspec.json.decode(output.tobytes(), type=Reading) == Reading("ab", 1.0, (1.0, 2.0, 3.0, 4.0))


@pytest.mark.parametrize(("width", "looked_at"), [(1, 16), (3, 16), (5, 32), (56, 144), (99, 240), (900, 240)])
def test_a_model_looks_at_as_much_as_a_line_needs_and_a_long_line_is_squeezed(width: int, looked_at: int) -> None:
    line = Image.new("RGB", (width, 20), "white")
    planes = recogniser_input(line, 240, 16)
    white = min(240, round(width * 2.4))
    assert planes.shape == (3, 48, looked_at)
    assert planes[:, :, :white] == pytest.approx(1.0)
    assert not planes[:, :, white:].any()
    assert recogniser_input(line, 240, 240).shape == (3, 48, 240), "all alike where the step is the whole"


def test_all_inputs_are_alike_where_the_device_or_the_model_wants_it(tmp_path: Path) -> None:
    adapter = recognition(tmp_path, tight=True)
    short = pack(Crop((0.0, 0.0, 1.0, 1.0), np.zeros((20, 8, 3), np.uint8)))
    assert adapter.prepare(short).inputs["x"].shape == (3, 48, 32)
    outputs, options = (Port("y", ("N", "T", 4), "float32"),), {"width": 96, "dictionary": "signs.txt", "tight": True}
    fixed = SessionIO(tmp_path, (Port("x", ("N", 3, 48, "W"), "float32"),), outputs, fixed=True)
    static = SessionIO(tmp_path, (Port("x", ("N", 3, 48, 96), "float32"),), outputs)
    for whole in (TextRecognition(fixed, options), TextRecognition(static, options), recognition(tmp_path)):
        assert whole.prepare(short).inputs["x"].shape == (3, 48, 96)


def test_recognition_options(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="width must lie between"):
        recognition(tmp_path, width=5)
    adapter = recognition(tmp_path)
    io = SessionIO(tmp_path, (Port("x", ("N", 3, 48, "W"), "float32"),), (Port("y", ("N", "T", 9), "float32"),))
    with pytest.raises(AdapterError, match=r"signs\.txt has 2 signs, the model 7"):
        TextRecognition(io, {"width": 96, "dictionary": "signs.txt"})
    with pytest.raises(AdapterError, match="models fetch reading"):
        TextRecognition(io, {"width": 96, "dictionary": "missing.txt"})
    check_crop(adapter.sample())


# -- names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nowhere", "nowhere:Thing", "loki_rl.reading.detection:Missing"])
def test_adapters_that_cannot_be_loaded(name: str) -> None:
    with pytest.raises(AdapterError, match="adapter"):
        adapter_class(name)


def test_adapter_by_name() -> None:
    assert adapter_class("loki_rl.reading.detection:TextDetection") is TextDetection

"""The int8 copy of a convolutional model, by static quantisation per channel (QDQ), which keeps the accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime as ort
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.device import CPU

# The lowest opset with per-channel QuantizeLinear and DequantizeLinear in all of the operators used.
OPSET = 17
OPERATORS = ["Conv", "MatMul"]


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Iterator[dict[str, Array]]) -> None:
        self.samples = samples

    def get_next(self) -> dict[str, Array] | None:
        return next(self.samples, None)


def int8(model: Path, inputs: Iterable[Array]) -> bytes:
    """The serialised int8 model. inputs: calibration batches for the model's only input, such as it will see."""
    with TemporaryDirectory() as folder:
        folded, made = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        name = _fold(model, folded)
        quantize_static(
            folded,
            made,
            _Samples({name: batch} for batch in inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=OPERATORS,
        )
        return made.read_bytes()


def _fold(model: Path, target: Path) -> str:
    """Write the model with constants and batch norms folded, at OPSET; the name of its input."""
    options = ort.SessionOptions()
    # Weights that are results of constant arithmetic would stay float, and so would everything that uses them.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    session = ort.InferenceSession(str(model), options, providers=[CPU])
    folded = version_converter.convert_version(onnx.load(target), OPSET)
    # Says that preparation was done, else the quantizer warns that it was not.
    onnx.helper.set_model_props(folded, {"onnx.quant.pre_process": "onnxruntime.quant"})
    onnx.save(folded, target)
    return str(session.get_inputs()[0].name)

"""The other tools' INT8: a float ONNX file and real tiles in, a file out. Kept once made.

Each runs in a process of its own: modelopt replaces parts of ONNX Runtime's quantizer when it is first
used, and quantize_static then fails or writes other files.

pip install -e '.[quantize]' nncf
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.files import replace_file

STATIC: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    # With every operator OpenVINO refuses the file; these are what it fuses.
    "u8": {
        "activation_type": "QUInt8",
        "per_channel": True,
        "op_types_to_quantize": ["Conv", "Clip", "Relu", "Add"],
    },
    # As TensorRT reads it.
    "s8": {
        "activation_type": "QInt8",
        "per_channel": True,
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
        },
    },
}
"""Options of ``quantize_static``."""


def modelopt(model: Path, tiles: NDArray[np.uint8], out: Path, method: str) -> None:
    """Modelopt's ONNX INT8 with one of its calibrators, ``max`` or ``entropy``.

    Args:
        model: float ONNX.
        tiles: (N, H, W, 3).
        out: the file to make.
        method: the calibrator.
    """
    _apart(_modelopt, model, tiles, out, method)


def quantize_static(model: Path, tiles: NDArray[np.uint8], out: Path, options: str) -> None:
    """ONNX Runtime's own, after its own preparation, with options of ``STATIC``."""
    _apart(_quantize_static, model, tiles, out, options)


def nncf(model: Path, tiles: NDArray[np.uint8], out: Path) -> None:
    """NNCF's post-training defaults, on the OpenVINO model; ``out`` is an ``.xml``."""
    _apart(_nncf, model, tiles, out)


def _apart(job: Callable[..., None], model: Path, tiles: Any, out: Path, *options: str) -> None:
    if not out.exists():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(job, model, tiles, out, *options).result()


def _modelopt(model: Path, tiles: NDArray[np.uint8], out: Path, method: str) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(model),
        quantize_mode="int8",
        calibration_data={"image": tiles},
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )


def _quantize_static(model: Path, tiles: NDArray[np.uint8], out: Path, options: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as run
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(tiles)

        def get_next(self) -> dict[str, Any] | None:
            tile = next(self.left, None)
            return None if tile is None else {"image": tile[None]}

    given = dict(STATIC[options])
    if "activation_type" in given:
        given["activation_type"] = getattr(QuantType, given["activation_type"])
    inferred = out.with_suffix(".inferred.onnx")
    quant_pre_process(str(model), str(inferred), skip_symbolic_shape=True)
    with replace_file(out) as written:
        run(str(inferred), str(written), Reader(), quant_format=QuantFormat.QDQ, **given)
    inferred.unlink()


def _nncf(model: Path, tiles: NDArray[np.uint8], out: Path) -> None:
    import nncf as tool
    import openvino as ov

    data = tool.Dataset([tile[None] for tile in tiles])
    made = tool.quantize(ov.Core().read_model(str(model)), data, subset_size=len(tiles))
    ov.save_model(made, str(out), compress_to_fp16=False)

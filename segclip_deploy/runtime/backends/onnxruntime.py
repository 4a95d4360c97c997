"""ONNX Runtime behind the Backend contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.errors import BadArtifact
from segclip_deploy.runtime.backends.base import TensorSpec, checked

__all__ = ["OnnxRuntimeBackend"]

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class OnnxRuntimeBackend:
    """Runs an ONNX file on the CPU, through buffers bound once.

    Args:
        model: the ONNX file; all shapes static.
        threads: within an operator; 0 lets ONNX Runtime choose.

    Raises:
        BadArtifact: ONNX Runtime refuses the file.
    """

    def __init__(self, model: Path, *, threads: int = 0) -> None:
        ort = require("onnxruntime", why="running an ONNX model")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no public base class
            raise BadArtifact(f"ONNX Runtime refuses it ({error})", where=model) from error
        self.name = f"ONNX Runtime {ort.__version__} CPU"
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._arrays = {o.name: np.empty(o.shape, dtype=o.dtype) for o in self.outputs}
        self._binding = self._session.io_binding()
        for spec in self.outputs:
            array = self._arrays[spec.name]
            self._binding.bind_output(
                spec.name, "cpu", 0, spec.dtype, spec.shape, array.ctypes.data
            )

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; the returned arrays are overwritten by the next call."""
        bound = [checked(arrays, spec) for spec in self.inputs]  # alive until the run is over
        for spec, array in zip(self.inputs, bound, strict=True):
            self._binding.bind_input(spec.name, "cpu", 0, spec.dtype, spec.shape, array.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        return self._arrays

    def close(self) -> None:
        """Release the session."""
        del self._binding, self._session


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES or not all(isinstance(side, int) for side in node.shape):
        raise BadArtifact(f"tensor {node.name} is {node.type} {node.shape}; shapes must be static")
    return TensorSpec(node.name, tuple(node.shape), np.dtype(_DTYPES[node.type]))

"""Give an engine another vocabulary, in place: TensorRT replaces the weights ``text.*``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from segclip_deploy.errors import BadArtifact
from segclip_deploy.runtime.targets.tensorrt.library import complaints, library_name, logger_of

__all__ = ["refit_plan"]


def refit_plan(trt: ModuleType, plan: Path, model: Path) -> Any:
    """A plan with the refittable weights of another ONNX file.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``, with a GPU.
        plan: built with REFIT_INDIVIDUAL.
        model: the same graph with other weights of the same names.

    Raises:
        BadArtifact: the library refuses, or some weights would keep their old values.
    """
    complaints(trt)  # what an earlier call left
    runtime = trt.Runtime(logger_of(trt))
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise BadArtifact(f"{library_name(trt)} refuses it ({complaints(trt)})", where=plan)
    refitter = trt.Refitter(engine, logger_of(trt))
    parser = trt.OnnxParserRefitter(refitter, logger_of(trt))
    done = parser.refit_from_file(str(model)) and not refitter.get_missing_weights()
    if not done or not refitter.refit_cuda_engine():
        raise BadArtifact(f"{library_name(trt)} cannot refit it ({complaints(trt)})", where=plan)
    return engine.serialize()

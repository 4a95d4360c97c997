"""segclip-deploy: take a trained SegCLIP to the GPU of a UAV.

``api`` has the verbs of the command line. Those whose names are free, and the nouns that they deal with, are
here, too; all are imported at first use, so that the import itself is light:

    from segclip_deploy import api, open_segmenter

    api.build_engine("dubai", out="dubai.ov.onnx")
    with open_segmenter("dubai.ov.onnx") as segment:
        segment("tile.jpg").overlay().save("overlay.png")

The examples of these names run in a folder with ``dubai``, a bundle of the shipped example
(``segclip-deploy export examples/dubai/model.safetensors -o dubai --size 512x512``), ``dubai.ort.onnx``, an engine
of it (``segclip-deploy build-engine dubai -o dubai.ort.onnx``), and ``tile.jpg``, one of the example's images.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segclip_deploy import api
    from segclip_deploy.api import (
        benchmark,
        build_engine,
        calibrate,
        compare,
        doctor,
        evaluate,
        inspect,
        plan,
        profile,
        quantize,
        run,
        set_texts,
        smooth,
        train,
        verify,
    )
    from segclip_deploy.artifacts.bundle import Bundle, InputSpec, load_bundle
    from segclip_deploy.artifacts.engine import Engine, load_engine
    from segclip_deploy.artifacts.vocabulary import Vocabulary, load_vocabulary
    from segclip_deploy.errors import SegclipError
    from segclip_deploy.runtime.inference.frame import Frame, read_frame
    from segclip_deploy.runtime.inference.label_map import LabelMap, StageTimes
    from segclip_deploy.runtime.inference.segmenter import Segmenter
    from segclip_deploy.runtime.open_engine import open_segmenter
    from segclip_deploy.runtime.targets.fake import FakeBackend

__version__ = "0.1.0"

# Of the verbs `export` is a package, and `import_`, `map` and `list_keys` are clearer with api before them.
__all__ = [
    "Bundle",
    "Engine",
    "FakeBackend",
    "Frame",
    "InputSpec",
    "LabelMap",
    "SegclipError",
    "Segmenter",
    "StageTimes",
    "Vocabulary",
    "api",
    "benchmark",
    "build_engine",
    "calibrate",
    "compare",
    "doctor",
    "evaluate",
    "inspect",
    "load_bundle",
    "load_engine",
    "load_vocabulary",
    "open_segmenter",
    "plan",
    "profile",
    "quantize",
    "read_frame",
    "run",
    "set_texts",
    "smooth",
    "train",
    "verify",
]

_HOMES = (
    "api",
    "artifacts.bundle",
    "artifacts.engine",
    "artifacts.vocabulary",
    "errors",
    "runtime.inference.frame",
    "runtime.inference.label_map",
    "runtime.inference.segmenter",
    "runtime.open_engine",
    "runtime.targets.fake",
)


def __getattr__(name: str) -> Any:
    if name == "api":
        return import_module(f"{__name__}.api")
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is offered, found already or not, so that a prompt completes it."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})

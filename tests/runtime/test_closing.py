"""Whatever opens a backend closes it, also where it fails half-way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.artifacts.plan import AccuracyLimits
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import load_table
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.onnx_model import load_model
from segclip_deploy.export.set_texts import set_texts
from segclip_deploy.planning.planner import plan_precision
from segclip_deploy.quantization.from_tiles import calibrate_on
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend
from tests.conftest import EXAMPLE
from tests.support.fakes import random_bank
from tests.support.helpers import call

Verb = Callable[[Path, Path, Path, Path], object]


class Torn(Exception):
    """What the cable does."""


def calibrate(tiny: Path, table: Path, checkpoint: Path, out: Path) -> object:
    return calibrate_on(load_bundle(tiny), [EXAMPLE / "images"], out / "t.json", select=16)


def write_int8(tiny: Path, table: Path, checkpoint: Path, out: Path) -> object:
    bundle = load_bundle(tiny)
    plan = uniform_plan(bundle, load_model(bundle.model_path).graph, Scheme.CPU, "int8")
    return quantize(bundle, out / "q", plan=plan, table=load_table(table))


def plan(tiny: Path, table: Path, checkpoint: Path, out: Path) -> object:
    bundle = load_bundle(tiny)
    return plan_precision(
        bundle,
        replace(load_table(table), tiles=()),  # it was measured on the evaluation images
        open_dataset(EXAMPLE, bundle.vocabulary),
        out / "p.yaml",
        scheme=Scheme.CPU,
        split="all",
        limits=AccuracyLimits(1.0),
    )


VERBS: Mapping[str, Verb] = {
    "export": lambda tiny, table, checkpoint, out: export_bundle(
        checkpoint, out / "b", spec=InputSpec(height=64, width=96)
    ),
    "calibrate": calibrate,
    "quantize": write_int8,
    "plan": plan,
    "set texts": lambda tiny, table, checkpoint, out: set_texts(
        load_bundle(tiny), random_bank(3), out / "r"
    ),
    "build onnxruntime": lambda tiny, table, checkpoint, out: build_engine(
        load_bundle(tiny), out / "e.ort.onnx"
    ),
    "build openvino": lambda tiny, table, checkpoint, out: build_engine(
        load_bundle(tiny), out / "e.ov.onnx"
    ),
    "preflight": lambda tiny, table, checkpoint, out: open_segmenter(tiny, preflight=True),
    "verify": lambda tiny, table, checkpoint, out: _raised(call("verify", tiny)),
}


def _raised(result: Any) -> None:
    if result.exception:
        raise result.exception


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("runs", [0, 3])
def test_a_backend_is_closed_where_it_fails(
    verb: str,
    runs: int,
    tiny_bundle: Path,
    tiny_table: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every backend tears at its first inference, or at the fourth of all."""
    opened: list[object] = []
    closed: list[object] = []
    count = 0
    for kind in (OnnxRuntimeBackend, OpenVinoBackend):

        def opening(self: Any, *args: Any, init: Any = kind.__init__, **options: Any) -> None:
            init(self, *args, **options)
            opened.append(self)

        def tearing(self: Any, arrays: Any, infer: Any = kind.infer) -> Any:
            nonlocal count
            count += 1
            if count > runs:
                raise Torn
            return infer(self, arrays)

        def closing(self: Any, close: Any = kind.close) -> None:
            close(self)
            closed.append(self)

        monkeypatch.setattr(kind, "__init__", opening)
        monkeypatch.setattr(kind, "infer", tearing)
        monkeypatch.setattr(kind, "close", closing)
    with pytest.raises(Torn):
        VERBS[verb](tiny_bundle, tiny_table, tiny_checkpoint, tmp_path)
    assert opened
    assert sorted(map(id, opened)) == sorted(map(id, closed))

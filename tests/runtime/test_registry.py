"""Targets are known by the registry alone: a new one is one class, and nothing else names any."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.runtime.inference.backend import Backend, TensorSpec
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.base import Target
from tests.conftest import ROOT
from tests.support.fakes import random_frame
from tests.support.helpers import call

PACKAGE = ROOT / "segclip_deploy"


class Toy(Target):
    """All that a target needs."""

    name = "toy"
    title = "Toy"
    short = "toy"
    suffix = ".toy"
    scheme = Scheme.CPU

    def open(self, model: Path, **_: Any) -> Backend:
        return ToyBackend(model)


class ToyBackend(Backend):
    def __init__(self, model: Path) -> None:
        self.name = "Toy 1.0"
        self.session = onnxruntime.InferenceSession(str(model))
        self.inputs = tuple(map(_spec, self.session.get_inputs()))
        self.outputs = tuple(map(_spec, self.session.get_outputs()))

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        found = self.session.run(None, dict(arrays))
        return {spec.name: array for spec, array in zip(self.outputs, found, strict=True)}

    def close(self) -> None:
        del self.session


def _spec(node: Any) -> TensorSpec:
    kind = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[node.type]
    return TensorSpec(node.name, tuple(node.shape), np.dtype(kind))


def test_a_toy_target_is_built_verified_flown_and_measured(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TARGETS, "toy", Toy())
    path, data = tmp_path / "e.toy", tmp_path / "data"
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
    Image.fromarray(random_frame(130, 200).pixels).save(data / "images" / "a.png")
    Image.new("L", (200, 130), 1).save(data / "masks" / "a.png")
    built = call("build-engine", tiny_bundle, "-o", path)
    assert "Toy 1.0: verification passed" in built.stdout
    assert load_engine(path).record.target == "toy"
    assert call("verify", path).exit_code == 0
    assert call("run", path, data / "images", "-o", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "areas.jsonl").is_file()
    assert json.loads(call("doctor", "--json").stdout)["targets"]["toy"]["run"]
    measured = call(
        "benchmark", tiny_bundle, "--eval", data, "--split", "all", "--target", "toy",
        "--precision", "fp32", "--samples", 10, "-o", tmp_path / "report",
    )  # fmt: skip
    assert measured.exit_code == 0, measured.stderr
    assert "fly bundle · toy · fp32" in measured.stdout


def named() -> Iterator[tuple[str, str]]:
    """(place, code) where something is compared with a target's name, or where names are listed."""
    names = set(TARGETS)
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[:2] == ("runtime", "targets"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                words = set(_words(node))
            elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
                words = set(_words(node))
                words = words if len(words & names) > 1 or isinstance(node, ast.Dict) else set()
            elif isinstance(node, ast.MatchValue):
                words = set(_words(node))
            else:
                continue
            if words & names:
                yield f"{place}:{node.lineno}", ast.unparse(node)


def _words(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


PACKAGES = {"_optional.py", "runtime/doctor.py", "runtime/profiling/profile.py"}
"""Where names of Python packages stand in lists; some targets are called like their package."""


def test_nothing_outside_the_targets_names_one() -> None:
    found = [(place, code) for place, code in named() if place.partition(":")[0] not in PACKAGES]
    assert not found
    listed = {place.partition(":")[0] for place, _ in named()}
    assert listed <= PACKAGES


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_help_names_every_target_with_its_suffix(target: Target) -> None:
    shown = " ".join(call("build-engine", "--help").stdout.split()).replace(
        "TensorRT- RTX", "TensorRT-RTX"
    )
    assert f"NAME{target.suffix} ({target.title})" in shown

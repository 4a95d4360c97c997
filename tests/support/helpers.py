"""What several tests do: call the command line, and put another model into a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
from click.testing import CliRunner, Result

from segclip_deploy.artifacts.bundle import Bundle, load_bundle
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.cli import main


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def copied(bundle: Path, out: Path) -> None:
    """A copy of a bundle with one graph: of two that for CPUs."""
    shutil.copytree(bundle, out)
    stored = json.loads((out / "bundle.json").read_text())
    if {"model.onnx", "model.nvidia.onnx"} <= stored["files"].keys():
        (out / "model.nvidia.onnx").unlink()
        del stored["files"]["model.nvidia.onnx"]
    (out / "bundle.json").write_text(json.dumps(stored))


def edited(bundle: Path, out: Path, model: onnx.ModelProto, **record: Any) -> Bundle:
    """A copy of a bundle with another model, in one graph, hashes made to fit."""
    copied(bundle, out)
    onnx.save(model, out / "model.onnx")
    stored = json.loads((out / "bundle.json").read_text())
    stored["files"]["model.onnx"] = sha256_file(out / "model.onnx")
    (out / "bundle.json").write_text(json.dumps({**stored, **record}))
    return load_bundle(out)

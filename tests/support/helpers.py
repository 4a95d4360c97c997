"""What several tests do: call the command line or another program, and put another model into a bundle."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import onnx
import pytest
from click.testing import CliRunner, Result

from segclip_deploy.artifacts.bundle import Bundle, load_bundle
from segclip_deploy.artifacts.bundle_record import MODEL_FILES
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.cli import main


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def commands() -> dict[str, click.Command]:
    """Every command by its name, in the order of the work."""
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command}


def program(name: str) -> str:
    """Of an environment, or of the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    return found or pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")


def copied(bundle: Path, out: Path, kept: Lowering = Lowering.CPU) -> None:
    """A copy of a bundle with one graph; ``kept`` says which of two."""
    shutil.copytree(bundle, out)
    stored = json.loads((out / "bundle.json").read_text())
    held = [lowering for lowering, name in MODEL_FILES.items() if name in stored["files"]]
    for lowering in held:
        if kept in held and lowering is not kept:
            (out / MODEL_FILES[lowering]).unlink()
            del stored["files"][MODEL_FILES[lowering]]
    (out / "bundle.json").write_text(json.dumps(stored))


def edited(
    bundle: Path,
    out: Path,
    model: onnx.ModelProto,
    lowering: Lowering = Lowering.CPU,
    **record: Any,
) -> Bundle:
    """A copy of a bundle with another model, in one graph, hashes made to fit."""
    copied(bundle, out, lowering)
    name = MODEL_FILES[lowering]
    onnx.save(model, out / name)
    stored = json.loads((out / "bundle.json").read_text())
    stored["files"][name] = sha256_file(out / name)
    (out / "bundle.json").write_text(json.dumps({**stored, **record}))
    return load_bundle(out)

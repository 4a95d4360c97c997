from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.model_spec import load_spec
from segclip_deploy.cli import main
from segclip_deploy.errors import BadInput
from segclip_deploy.export.blocks import blocks_of
from segclip_deploy.model.network import load_factory
from tests.conftest import EXAMPLE, ROOT


def test_the_documented_example_is_imported_exported_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "examples" / "denseclip")
    spec, weights = tmp_path / "spec.yaml", tmp_path / "dense.pth"
    spec.write_text(
        "classes: 5\ntext_width: 512\nencoder: timm:test_efficientnet\nwidth: 16\nheads: 1\n"
    )
    network = load_factory("denseclip:DenseClip")(load_spec(spec))
    torch.save(network.state_dict(), weights)
    checkpoint, bundle = tmp_path / "dense.safetensors", tmp_path / "dense"
    table = tmp_path / "dense.json"
    model = ("--model", "denseclip:DenseClip")
    bank = EXAMPLE / "text_bank.safetensors"
    commands: list[tuple[object, ...]] = [
        (
            "import",
            weights,
            *model,
            "--spec",
            spec,
            "--vocabulary",
            "dubai",
            "--text",
            bank,
            "--tiles",
            EXAMPLE / "images",
            "-o",
            checkpoint,
        ),
        ("export", checkpoint, *model, "-o", bundle, "--size", "128", "--logits"),
        ("verify", bundle),
        ("calibrate", bundle, "--tiles", EXAMPLE / "images", "--select", 32, "-o", table),
    ]
    for scheme, precision in (("tensorrt", "fp16"), ("tensorrt", "int8"), ("cpu", "int8")):
        low = tmp_path / f"{scheme}-{precision}"
        options = ("--scheme", scheme, "--precision", precision, "--table", table)
        commands += [("quantize", bundle, *options, "-o", low), ("verify", low)]
    for command in commands:
        result = CliRunner().invoke(main, [str(word) for word in command])
        assert result.exit_code == 0, result.stderr
    record = load_bundle(bundle).record
    assert record.factory == "denseclip:DenseClip"
    folded = record.parity[0]
    assert folded.engine.endswith("folded for cpu")
    assert folded.max_logit_error < 1e-4
    blocks = set(blocks_of(onnx.load(bundle / "model.onnx")))
    assert {"encoder.stage3", "laterals.0", "head", "graph"} <= blocks
    # Without --model the weights are taken for SegCLIP's, and refused.
    result = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(tmp_path / "b")])
    assert result.exit_code == 1
    assert "--model" in result.stderr
    # Its text is no part apart, from which another could be folded in.
    again = [str(w) for w in ("set-texts", bundle, "--text", bank, "-o", tmp_path / "b")]
    result = CliRunner().invoke(main, again)
    assert result.exit_code == 1
    assert "import its weights with the new text bank" in result.stderr
    assert json.loads((bundle / "bundle.json").read_text())["folding"] == []


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("denseclip", "package.module:function"),
        ("no_such_module:build", "cannot be imported"),
        ("json:no_such_function", "cannot be imported"),
        ("sys:maxsize", "not a function or class"),
    ],
)
def test_a_reference_that_names_no_factory_is_refused(reference: str, said: str) -> None:
    before = list(sys.path)
    with pytest.raises(BadInput, match=said):
        load_factory(reference)
    sys.path[:] = before

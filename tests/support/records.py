"""A bundle's record with as little in it as can be."""

from __future__ import annotations

from typing import Any

from segclip_deploy.artifacts.bundle_record import BundleRecord, Parents
from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary


def small_record(**fields: Any) -> BundleRecord:
    """Of an FP32 bundle; ``fields`` are what differs."""
    given: dict[str, Any] = {
        "input": InputSpec(height=64, width=96, batch=2),
        "outputs": ("labels", "logits"),
        "precision": "fp32",
        "opset": 19,
        "factory": None,
        "model": ModelSpec(classes=5, text_width=16),
        "vocabulary": load_vocabulary("dubai"),
        "text_encoder": "random",
        "trained_for_int8": (),
        "files": {},
        "parents": Parents(checkpoint="0" * 64),
        "parity": (),
        "folding": (),
        "blocks": (),
        "tools": {},
    }
    return BundleRecord(**given | fields)

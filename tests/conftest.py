"""Fixtures: a tiny model with random weights, and where the example and the shared data lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segclip_deploy.errors import MissingDependency
from segclip_deploy.runtime.device import find_gpu
from segclip_deploy.vocabulary import Vocabulary, load_vocabulary

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
EXAMPLE = ROOT / "examples" / "dubai"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say why, what needs data or a GPU that is not here."""
    absent = pytest.mark.skip(reason=f"needs {SHARED}, which is absent")
    obstacle = _gpu_obstacle()
    for item in items:
        if "shared" in item.keywords and not SHARED.is_dir():
            item.add_marker(absent)
        if obstacle and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=obstacle))


def _gpu_obstacle() -> str | None:
    try:
        find_gpu(why="this test")
    except MissingDependency as error:
        return error.what
    return None


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return load_vocabulary("dubai")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """A checkpoint of a very small SegCLIP with random weights and random texts."""
    import torch

    from segclip_deploy.model.checkpoint import Checkpoint, save_checkpoint
    from segclip_deploy.model.segclip import SegCLIP
    from segclip_deploy.model.spec import ModelSpec
    from segclip_deploy.model.text import TextBank, unit_rows

    rng = np.random.default_rng(0)
    spec = ModelSpec(classes=5, text_width=16, encoder="timm:test_efficientnet", width=32)
    bank = TextBank(
        unit_rows(rng.standard_normal((5, 16))),
        unit_rows(rng.standard_normal((5, 3, 16))),
        "random",
    )
    torch.manual_seed(0)
    tiles = rng.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    weights = SegCLIP(spec).state_dict()
    save_checkpoint(path, Checkpoint(spec, vocabulary, bank, weights, tiles))
    return path


@pytest.fixture(scope="session")
def example_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint, exported as the README says."""
    from segclip_deploy.artifacts import InputSpec
    from segclip_deploy.export.export import export_bundle

    out = tmp_path_factory.mktemp("example") / "dubai"
    export_bundle(EXAMPLE / "model.safetensors", out, spec=InputSpec(height=512, width=512))
    return out


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint, exported at 64×96 with logits."""
    from segclip_deploy.artifacts import InputSpec
    from segclip_deploy.export.export import export_bundle

    out = tiny_checkpoint.with_name("bundle")
    export_bundle(tiny_checkpoint, out, spec=InputSpec(height=64, width=96), logits=True)
    return out


@pytest.fixture(scope="session")
def open_bundle(tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint, exported at 64×96 for 1 to 3 images, with margin and logits."""
    from segclip_deploy.artifacts import InputSpec
    from segclip_deploy.export.export import export_bundle

    out, spec = tiny_checkpoint.with_name("open"), InputSpec(64, 96, batch=3, min_batch=1)
    export_bundle(tiny_checkpoint, out, spec=spec, margin=True, logits=True)
    return out

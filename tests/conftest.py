"""Fixtures: a tiny model with random weights, and where the example and the shared data lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.artifacts.vocabulary import Vocabulary, load_vocabulary
from segclip_deploy.errors import MissingDependency
from segclip_deploy.runtime.targets.device import find_gpu
from tests.support.missing import OBSTACLES

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
        for marker, (look, remedy) in OBSTACLES.items():
            if item.get_closest_marker(marker) and (missing := look()):
                item.add_marker(pytest.mark.skip(reason=f"{missing}: {remedy}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each onboard interface whose tests were skipped."""
    for marker, (look, remedy) in OBSTACLES.items():
        skipped = terminalreporter.stats.get("skipped", [])
        count = sum(marker in report.keywords for report in skipped)
        if count and (missing := look()):
            line = f"{missing}: {count} tests marked {marker} were SKIPPED; to run them: {remedy}"
            terminalreporter.write_line(line, yellow=True)


def _gpu_obstacle() -> str | None:
    try:
        find_gpu(why="this test")
    except MissingDependency as error:
        return error.what
    return None


@pytest.fixture(scope="session", autouse=True)
def caches_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither use nor leave compiled models and timings in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return load_vocabulary("dubai")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """A checkpoint of a very small SegCLIP with random weights and random texts."""
    import torch

    from segclip_deploy.artifacts.model_spec import ModelSpec
    from segclip_deploy.model.checkpoint import Checkpoint, save_checkpoint
    from segclip_deploy.model.segclip import SegCLIP
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
    from segclip_deploy.artifacts.bundle import InputSpec
    from segclip_deploy.export.export import export_bundle

    out = tmp_path_factory.mktemp("example") / "dubai"
    export_bundle(EXAMPLE / "model.safetensors", out, spec=InputSpec(height=512, width=512))
    return out


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint, exported at 64×96 with logits."""
    from segclip_deploy.artifacts.bundle import InputSpec
    from segclip_deploy.export.export import export_bundle

    out = tiny_checkpoint.with_name("bundle")
    export_bundle(tiny_checkpoint, out, spec=InputSpec(height=64, width=96), logits=True)
    return out


@pytest.fixture(scope="session")
def drawn_dataset(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of real images; their masks are drawn from the tiny model's probabilities at temperature 2.5.

    A band of each mask is ignored. Splits: ``plan`` of two images, ``val`` of one.
    """
    import json

    from PIL import Image

    from segclip_deploy.runtime.inference.frame import read_frame
    from segclip_deploy.runtime.open_engine import open_segmenter
    from tests.support.fakes import drawn_from

    root = tmp_path_factory.mktemp("drawn")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    with open_segmenter(tiny_bundle) as segmenter:
        values = [entry.mask_value for entry in segmenter.vocabulary.classes]
        for index, source in enumerate(sorted((EXAMPLE / "images").iterdir())[:3]):
            place, rows = root / "images" / f"{index}.png", []
            with Image.open(source) as image:
                image.crop((40, 40, 40 + 240, 40 + 160)).save(place)
            segmenter.segment(
                read_frame(place),
                on_logits=lambda r, to=rows: to.extend(z for _, z in r.upsampled()),
            )
            classes = drawn_from(np.concatenate(rows, axis=1)[:, :160, :240], 2.5, index)
            mask = np.array(values, np.uint8)[classes]
            mask[:, :20] = 255
            Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    (root / "split.json").write_text(json.dumps({"plan": ["0", "1"], "val": ["2"]}))
    return root


@pytest.fixture(scope="session")
def scaled_bundle(tiny_checkpoint: Path, drawn_dataset: Path) -> Path:
    """The tiny checkpoint, exported with the temperature of ``drawn_dataset``, by the command."""
    from tests.support.helpers import call

    out = tiny_checkpoint.with_name("scaled")
    options = ("--size", "64x96", "--margin", "--logits", "--for", "cpu")
    options += ("--calibrate-confidence", str(drawn_dataset))
    result = call("export", tiny_checkpoint, "-o", out, *options)
    assert result.exit_code == 0, result.stderr
    assert "temperature 2." in result.stdout
    return out


@pytest.fixture(scope="session")
def other_checkpoint(tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint with other random texts."""
    from segclip_deploy.model.checkpoint import load_checkpoint, save_checkpoint
    from tests.support.fakes import random_bank

    path = tiny_checkpoint.with_name("other.safetensors")
    save_checkpoint(path, replace(load_checkpoint(tiny_checkpoint), bank=random_bank(7)))
    return path


@pytest.fixture(scope="session")
def open_bundle(other_checkpoint: Path) -> Path:
    """That one, exported for frames of 64×96 and 1 to 3 images, with margin and logits, by the command."""
    from click.testing import CliRunner

    from segclip_deploy.cli import main

    out = other_checkpoint.with_name("open")
    command = ["export", str(other_checkpoint), "-o", str(out), "--frame", "96x64,16"]
    result = CliRunner().invoke(main, [*command, "--batch", "1..3", "--margin", "--logits"])
    assert result.exit_code == 0, result.stderr
    return out


@pytest.fixture(scope="session")
def tiny_table(tiny_bundle: Path) -> Path:
    """Ranges of the tiny model on 24 real tiles."""
    return calibrated(tiny_bundle, [EXAMPLE / "images"], 24)


@pytest.fixture(scope="session")
def example_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What has 16 tiles of 512²: the shipped images have 15, so one is cut twice."""
    from PIL import Image

    again = tmp_path_factory.mktemp("again") / "again.png"
    with Image.open(EXAMPLE / "images" / "tile8_part3.jpg") as image:
        image.crop((256, 256, 256 + 1024, 256 + 1024)).save(again)
    return [EXAMPLE / "images", again]


@pytest.fixture(scope="session")
def example_table(example_bundle: Path, example_images: list[Path]) -> Path:
    """Ranges of the shipped model."""
    return calibrated(example_bundle, example_images, 16)


@pytest.fixture(scope="session")
def quantized(
    example_bundle: Path, example_table: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """(scheme, precision) → the shipped model in it, made when first asked for."""
    folder = tmp_path_factory.mktemp("quantized")

    @cache
    def make(scheme: str, precision: str) -> Path:
        return uniformly(
            example_bundle, example_table, folder / f"{scheme}-{precision}", scheme, precision
        )

    return make


def uniformly(bundle: Path, table: Path, out: Path, scheme: str, precision: str) -> Path:
    """A bundle in one precision."""
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.calibration.table import load_table
    from segclip_deploy.export.onnx_model import load_model
    from segclip_deploy.quantization.placement import uniform_plan
    from segclip_deploy.quantization.quantize import quantize

    loaded = load_bundle(bundle)
    plan = uniform_plan(loaded, load_model(loaded.model_path).graph, Scheme(scheme), precision)
    quantize(loaded, out, plan=plan, table=load_table(table))
    return out


def calibrated(bundle: Path, images: list[Path], count: int) -> Path:
    """The table of a bundle on so many tiles of images."""
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.calibration.selection import select_tiles
    from segclip_deploy.calibration.tiles import find_tiles
    from segclip_deploy.quantization.from_tiles import calibrate

    out, loaded = bundle.with_name(f"{bundle.name}.table.json"), load_bundle(bundle)
    tiles = select_tiles(find_tiles(images, loaded.input), count)
    calibrate(loaded, tiles, out, method="percentile")
    return out


@pytest.fixture(scope="session", autouse=True)
def _sweeps_collect_no_garbage() -> Iterator[None]:
    """A collection before each timed round takes a second in this process, which holds what all tests loaded."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("segclip_deploy.tradeoff.measure_points.gc", SimpleNamespace(collect=int))
        yield

"""What is written is read back equal, whatever it holds; and both grids of a raster cover the same rows once."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segclip_deploy.artifacts.golden import Golden, load_golden, save_golden
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.plan import PrecisionPlan, load_plan, save_plan
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.calibration.table import CalibrationTable, load_table, save_table
from segclip_deploy.model.text import TextBank, load_text_bank, save_text_bank, unit_rows
from segclip_deploy.runtime.io.raster.grid import RasterGrid
from tests.support.records import any_of

NAMES = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trips")


@settings(deadline=None, max_examples=50)
@given(any_of(PrecisionPlan).map(partial(replace, scheme=Scheme.TENSORRT)))
def test_a_plan(folder: Path, plan: PrecisionPlan) -> None:
    save_plan(folder / "p.yaml", plan)
    assert load_plan(folder / "p.yaml") == plan


@settings(deadline=None, max_examples=50)
@given(any_of(CalibrationTable))
def test_a_table(folder: Path, table: CalibrationTable) -> None:
    save_table(folder / "t.json", table)
    assert load_table(folder / "t.json") == table


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(2, 6)),
    reference=st.booleans(),
)
def test_golden_tiles(
    folder: Path, seed: int, sizes: tuple[int, int, int, int], reference: bool
) -> None:
    rng, (count, height, width, classes) = np.random.default_rng(seed), sizes
    tiles = rng.integers(0, 256, (count, 4 * height, 4 * width, 3), dtype=np.uint8)
    logits = rng.standard_normal((count, classes, height, width)).astype(np.float32)
    labels = tiles[..., 0] % np.uint8(classes)
    more = (labels, "int8", 0.75) if reference else (None, "fp32", None)
    save_golden(folder / "g.npz", Golden(tiles, labels, logits, *more))
    read = load_golden(folder / "g.npz")
    for name in ("tiles", "labels", "logits"):
        np.testing.assert_array_equal(getattr(read, name), {"tiles": tiles, "labels": labels, "logits": logits}[name])  # fmt: skip
    assert (read.reference is not None, read.precision, read.agreement) == (reference, *more[1:])


@settings(deadline=None, max_examples=30)
@given(
    hnp.arrays(np.float32, (5, 7), elements=st.floats(0.125, 8, width=32)),
    hnp.arrays(np.float32, (5, 2, 7), elements=st.floats(0.125, 8, width=32)),
    NAMES,
)
def test_a_text_bank_up_to_half_precision(
    folder: Path, classes: Any, texts: Any, encoder: str
) -> None:
    bank = TextBank(unit_rows(classes), unit_rows(texts), encoder)
    save_text_bank(folder / "b.safetensors", bank)
    read = load_text_bank(str(folder / "b.safetensors"), load_vocabulary("dubai"))
    np.testing.assert_allclose(read.classes, bank.classes, atol=1e-3)
    np.testing.assert_allclose(read.texts, bank.texts, atol=1e-3)
    assert read.encoder == encoder


@given(
    classes=st.integers(2, 255), heads=st.integers(1, 8), width=st.integers(1, 64),
    strides=st.sets(st.sampled_from([8, 16, 32])), refine=st.booleans(),
)  # fmt: skip
def test_a_model_spec(
    classes: int, heads: int, width: int, strides: set[int], refine: bool
) -> None:
    spec = ModelSpec(classes, 16, width=width * heads, heads=heads, cff_strides=tuple(strides), refine=refine)  # fmt: skip
    assert ModelSpec.from_mapping(spec.to_json()) == spec


@given(own=st.integers(1, 300), model=st.integers(1, 300), cuts=st.lists(st.integers(0, 300), max_size=6))  # fmt: skip
def test_strips_of_the_models_rows_give_each_of_the_rasters_rows_once(
    own: int, model: int, cuts: list[int]
) -> None:
    grid = RasterGrid((own, 8), (model, 8))
    edges = sorted({0, model, *(min(cut, model) for cut in cuts)})
    strips = [grid.own_rows(top, bottom) for top, bottom in pairwise(edges)]
    assert [row for start, stop in strips for row in range(start, stop)] == list(range(own))
    middle = (np.arange(own) + 0.5) * model / own
    np.testing.assert_allclose(grid.rows + 0.5, middle, atol=0.5 + 1e-9)

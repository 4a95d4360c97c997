"""A table's tiles are found among its images again, or it is told which is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.calibration.table import load_table
from segclip_deploy.calibration.tiles import pixels_sha256
from segclip_deploy.calibration.tiles_again import find_again
from segclip_deploy.errors import BadInput, StaleArtifact
from segclip_deploy.runtime.io.raster.source import Reading
from tests.conftest import EXAMPLE


def test_every_tile_of_a_table_comes_back_in_its_order(
    tiny_bundle: Path, tiny_table: Path, tmp_path: Path
) -> None:
    """From another folder, beside an image of the same name with other pixels."""
    table, bundle = load_table(tiny_table), load_bundle(tiny_bundle)
    moved = shutil.copytree(EXAMPLE / "images", tmp_path / "moved")
    (tmp_path / "other").mkdir()
    Image.new("RGB", (96, 64)).save(tmp_path / "other" / table.tiles[0].source, "PNG")
    tiles = list(find_again(table, bundle, [tmp_path / "other", moved]))
    assert [pixels_sha256(tile) for tile in tiles] == [tile.sha256 for tile in table.tiles]
    assert {(tile.shape, tile.dtype) for tile in tiles} == {((64, 96, 3), np.dtype(np.uint8))}


@pytest.mark.faults
@pytest.mark.parametrize("change", ["one pixel", "gone"])
def test_a_tile_that_is_not_there_as_it_was_measured_is_named(
    change: str, tiny_bundle: Path, tiny_table: Path, tmp_path: Path
) -> None:
    table = load_table(tiny_table)
    measured = table.tiles[-1]
    images = shutil.copytree(EXAMPLE / "images", tmp_path / "images")
    path = images / measured.source
    with Image.open(path) as image:
        pixels = np.array(image)
    path.unlink()
    if change == "one pixel":
        pixels[measured.top, measured.left] ^= 1
        Image.fromarray(pixels).save(path, "PNG")  # by its name a JPEG, and without its losses
    with pytest.raises(StaleArtifact) as caught:
        find_again(table, load_bundle(tiny_bundle), [images])
    told = str(caught.value)
    assert told.startswith(f"--tiles {images}: the tile at row ")
    assert f" of {measured.source}, " in told
    assert f"calibrate {tiny_bundle} --tiles DIR -o TABLE" in told


@pytest.mark.faults
def test_a_way_of_reading_that_changes_nothing_is_refused(
    tiny_bundle: Path, tiny_table: Path
) -> None:
    with pytest.raises(BadInput, match="--scale does nothing"):
        find_again(
            load_table(tiny_table),
            load_bundle(tiny_bundle),
            [EXAMPLE / "images"],
            reading=Reading(scale=(0, 4095)),
        )

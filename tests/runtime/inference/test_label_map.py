"""What people ask of a label map is what ``run`` writes of the same image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio import features

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, load_vocabulary
from segclip_deploy.errors import BadInput, MissingDependency
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.label_map import LabelMap
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.streaming.run import segment_centre
from tests.conftest import EXAMPLE
from tests.support.fakes import FakeBackend, random_frame
from tests.support.helpers import call

DUBAI = load_vocabulary("dubai")


def label_map(height: int = 50, width: int = 70, *, hole: bool = False) -> LabelMap:
    """Blocks of noise, and a square of one class around another; with a hole of pixels that are not valid."""
    pixels = random_frame(-(-height // 6), -(-width // 6)).pixels.repeat(6, 0).repeat(6, 1)
    pixels = np.ascontiguousarray(pixels[:height, :width])
    pixels[20:40, 10:30] = 255
    pixels[25:35, 15:25] = 0
    valid = np.ones((height, width), np.bool_)
    valid[10:20, 30:45] = not hole
    segment = Segmenter(FakeBackend(64, 64), InputSpec(64, 64), DUBAI)
    return segment(Frame(pixels, "blocks", valid))


def test_a_label_map_gives_what_run_writes(tiny_bundle: Path, tmp_path: Path) -> None:
    path, out = EXAMPLE / "images" / "tile6_part8.jpg", tmp_path / "out"
    assert call("run", tiny_bundle, path, "-o", out).exit_code == 0
    with open_segmenter(tiny_bundle) as segment:
        labels = segment(path)
    labels.save(tmp_path / "new" / "mine.png")
    assert (tmp_path / "new" / "mine.png").read_bytes() == (out / f"{path.stem}.png").read_bytes()
    with Image.open(out / f"{path.stem}.overlay.png") as drawn:
        np.testing.assert_array_equal(np.asarray(labels.overlay()), np.asarray(drawn))
    (line,) = (out / "areas.jsonl").read_text().splitlines()
    assert labels.areas() == json.loads(line)["areas"]


def test_unlabelled_pixels_are_saved_as_255_and_counted(tmp_path: Path) -> None:
    labels = label_map(hole=True)
    labels.save(str(tmp_path / "a.PNG"))
    with Image.open(tmp_path / "a.PNG") as image:
        np.testing.assert_array_equal(np.asarray(image), labels.labels)
    areas = labels.areas()
    assert list(areas) == [*DUBAI.names, "unlabelled"]
    assert areas["unlabelled"] == {"pixels": 150, "share": round(150 / 3500, 6)}
    assert sum(area["pixels"] for area in areas.values()) == 50 * 70


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a"])
def test_labels_are_saved_as_png_only(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"labels are written as PNG; call it .*a\.png$"):
        label_map().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match=r"a\.png"):
        label_map().save(tmp_path / "a.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_an_overlay_mixes_frame_and_colours_as_it_is_told() -> None:
    labels = label_map(hole=True)
    bare = labels.labels == IGNORE_INDEX
    pixels = labels.frame.pixels
    np.testing.assert_array_equal(np.asarray(labels.overlay(alpha=0)), pixels)
    drawn = np.asarray(labels.overlay(alpha=1))
    np.testing.assert_array_equal(drawn[~bare], DUBAI.palette[labels.labels[~bare]])
    np.testing.assert_array_equal(drawn[bare], pixels[bare])
    other = np.zeros_like(pixels)
    assert not np.asarray(labels.overlay(other, alpha=0)).any()
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(BadInput, match="not 0 to 1"):
            labels.overlay(alpha=alpha)
    with pytest.raises(BadInput, match="an array: is 70×49 pixels, and its labels 70×50"):
        labels.overlay(other[1:])


def test_a_label_map_of_a_part_is_drawn_over_the_whole_frame() -> None:
    segment = Segmenter(FakeBackend(64, 64), InputSpec(64, 64), DUBAI)
    frame = random_frame(200, 300)
    labels = segment_centre(segment, frame, 1, 1)
    assert labels.frame is frame
    assert labels.overlay().size == (300, 200)


def test_polygons_drawn_again_are_the_labels() -> None:
    labels = label_map(hole=True)
    collection = labels.polygons()
    assert json.loads(json.dumps(collection))["type"] == "FeatureCollection"
    found = collection["features"]
    drawn = features.rasterize(
        [(one["geometry"], one["properties"]["index"]) for one in found],
        labels.labels.shape,
        fill=IGNORE_INDEX,
        dtype="uint8",
    )
    np.testing.assert_array_equal(drawn, labels.labels)
    areas = labels.areas()
    for index, entry in enumerate(DUBAI.classes):
        mine = [one["properties"] for one in found if one["properties"]["class"] == entry.name]
        assert sum(one["pixels"] for one in mine) == areas[entry.name]["pixels"]
        for one in mine:
            assert one["index"] == index
            assert one["mask_value"] == entry.mask_value
            assert bytes.fromhex(one["colour"][1:]) == bytes(entry.colour)
    assert any(len(one["geometry"]["coordinates"]) > 1 for one in found)  # holes


def test_polygons_without_rasterio_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio.features", None)
    with pytest.raises(MissingDependency, match="drawing polygons needs the package"):
        label_map().polygons()


def test_a_label_map_is_shown_in_a_line() -> None:
    assert repr(label_map()) == "<LabelMap of 70×50 pixels, 5 classes of dubai>"

"""``run`` on rasters, beside images."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.engine import open_segmenter
from segclip_deploy.runtime.inference.frame import Frame
from tests.support.fakes import random_frame
from tests.support.helpers import call
from tests.support.rasters import labels_in, noise, write_raster


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A raster, one that needs a scale, and a plain image."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_raster(folder / "geo.tif", noise(90, 130))
    write_raster(folder / "deep.tif", noise(90, 130, 1).astype(np.uint16) * 10)
    Image.fromarray(random_frame(70, 100).pixels).save(folder / "plain.tif")
    return folder


def test_rasters_images_and_bad_ones_of_a_folder_are_told_apart(
    tiny_bundle: Path, sources: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--polygons", "--seam-score"]
    result = call("run", tiny_bundle, sources, "-o", out, "--json", *options)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["done"], len(report["rasters"]), len(report["failed"])) == (1, 1, 1)
    assert report["failed"][0]["image"] == str(sources / "deep.tif")
    assert "--scale LOW,HIGH" in report["failed"][0]["error"]
    assert {p.name for p in out.iterdir()} == {
        *("areas.jsonl", "plain.png", "plain.overlay.png"),
        *("geo.tif", "geo.tif.aux.xml", "geo.geojson"),
    }
    lines = [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]
    assert [line["labels"] for line in lines] == ["plain.png", "geo.tif"]
    (line,) = report["rasters"]
    assert line == lines[1]
    assert line["crs"] == "EPSG:25832"
    assert line["pixel_m"] == pytest.approx([0.5, 0.5], rel=1e-3)
    assert sum(area["m2"] for area in line["areas"].values()) == pytest.approx(2925, rel=1e-3)
    assert 0 <= line["seams"]["share"] <= 1
    assert f"seam score {line['seams']['share']:.4f}" in " ".join(result.stderr.split())

    with open_segmenter(tiny_bundle) as flyer:
        pixels = np.ascontiguousarray(noise(90, 130).transpose(1, 2, 0))
        expected = flyer.segment(Frame(pixels, "")).labels
    np.testing.assert_array_equal(labels_in(out / "geo.tif"), expected)

    again = call("run", tiny_bundle, sources, "-o", out, "--scale", "0,2550", "--json")
    assert again.exit_code == 0
    kept = {line["labels"]: line["rows_kept"] for line in json.loads(again.stdout)["rasters"]}
    assert kept == {"geo.tif": 90, "deep.tif": 0}
    assert not (out / "geo.geojson").exists()  # of the run before, without --polygons


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bands", "1,2"], "no three bands like 1,2,3"),
        (["--bands", "0,1,2"], "no three bands like 1,2,3"),
        (["--scale", "9,1"], "no scale like 0,3000"),
        (["--scale", "0,nan"], "no scale like 0,3000"),
        (["--polygons"], "--polygons is for rasters with a place, and there is none"),
    ],
)
def test_options_that_cannot_be_are_refused(
    tiny_bundle: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    image = tmp_path / "a.png"
    Image.fromarray(random_frame(70, 100).pixels).save(image)
    result = call("run", tiny_bundle, image, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_results_are_not_written_among_the_rasters(tiny_bundle: Path, sources: Path) -> None:
    result = call("run", tiny_bundle, sources / "geo.tif", "-o", sources)
    assert result.exit_code == 1
    assert "the results would lie among the images" in result.stderr


@pytest.mark.faults
def test_a_full_disk_ends_the_command_with_one_line_and_what_is_done_is_kept(
    tiny_bundle: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    command = ["run", tiny_bundle, sources / "geo.tif", "-o", tmp_path / "out"]
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        result = call(*command)
    assert result.exit_code == 1
    assert "the same command goes on from there" in " ".join(result.stderr.split())
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert result.stderr.splitlines()[-1].endswith("No space left on device")
    assert not (tmp_path / "out" / "geo.tif").exists()
    assert call(*command).exit_code == 0


def test_without_rasterio_the_install_line_is_given(
    tiny_bundle: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    result = call("run", tiny_bundle, sources / "geo.tif", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "pip install 'segclip-deploy[geo]'" in result.stderr
    assert not isinstance(result.exception, BadInput)

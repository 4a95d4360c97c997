"""``run`` on rasters, beside images."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from segclip_deploy._optional import install_command
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.open_engine import open_segmenter
from tests.support.fakes import random_frame
from tests.support.helpers import call
from tests.support.rasters import RGB, labels_in, noise, write_raster


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
    assert install_command("geo") in result.stderr
    assert not isinstance(result.exception, BadInput)


# ---- what is real, where it lies, and what does nothing


def off_earth(path: Path) -> Path:
    """A raster whose corner lies off the Earth."""
    transform = Affine(1000, 0, -17840000, 0, -1000, 1500000)
    return write_raster(path, noise(60, 60), crs="+proj=moll +ellps=WGS84", transform=transform)


@pytest.mark.faults
def test_a_raster_that_leaves_the_earth_ends_no_run(tiny_bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    off_earth(folder / "a.tif")
    whole = write_raster(folder / "b.tif", noise(60, 60))
    (folder / "c.tif").write_bytes(whole.read_bytes()[:3000])
    write_raster(folder / "d.tif", noise(60, 60), crs=None)  # no polygons of this one
    write_raster(folder / "e.tif", noise(60, 60))
    result = call("run", tiny_bundle, folder, "-o", out, "--polygons")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    lines = [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]
    assert [line["labels"] for line in lines] == ["a.tif", "b.tif", "e.tif"]
    told = " ".join(result.stderr.split())
    assert "labelled pixels off the Earth are left out of the polygons" in told
    assert "c.tif: damaged or unreadable" in told
    assert "d.tif: has no coordinate reference system" in told


@pytest.mark.parametrize("command", ["run", "map"])
def test_what_alpha_removes_is_told_once_and_is_the_same_by_run_and_map(
    tiny_bundle: Path, tmp_path: Path, command: str
) -> None:
    values = np.concatenate([noise(90, 120), np.full((2, 90, 120), 255, np.uint8)])
    values[4, :, :40] = 0
    source = write_raster(
        tmp_path / "a.tif", values, colours=(*RGB, ColorInterp.undefined, ColorInterp.alpha)
    )
    out = tmp_path / "out"
    first = [tiny_bundle, source] if command == "run" else [source, "--engine", tiny_bundle]
    result = call(command, *first, "-o", out)
    assert result.exit_code == 0
    told = " ".join(result.stderr.split())
    assert told.count("alpha band 5 removes 33 % of the area; --ignore-alpha keeps it") == 1
    np.testing.assert_array_equal(labels_in(out / "a.tif") == IGNORE_INDEX, values[4] == 0)
    again = call(command, *first, "-o", out, "--ignore-alpha", "--json")
    assert again.exit_code == 0
    assert not (labels_in(out / "a.tif") == IGNORE_INDEX).any()  # made anew


@pytest.mark.parametrize("command", ["run", "map"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ignore-alpha"], "geo.tif: --ignore-alpha does nothing: has no alpha band"),
        (["--scale", "0,9"], "geo.tif: --scale does nothing: its values are 8 bits"),
    ],
)
def test_options_that_do_nothing_are_refused_before_anything_is_done(
    tiny_bundle: Path, sources: Path, tmp_path: Path, command: str, options: list[str], message: str
) -> None:
    source = sources / "geo.tif"
    first = [tiny_bundle, source] if command == "run" else [source, "--engine", tiny_bundle]
    result = call(command, *first, "-o", tmp_path / "out", *options)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.faults
def test_the_remedies_that_rasters_are_refused_with_work(tiny_bundle: Path, tmp_path: Path) -> None:
    """One band: with the option that is printed. No CRS and --polygons: after the command that is."""
    grey = write_raster(tmp_path / "grey.tif", noise(70, 100)[:1], colours=None)
    refused = call("run", tiny_bundle, grey, "-o", tmp_path / "grey")
    assert refused.exit_code == 1
    option = " ".join(refused.stderr.split()).partition("three times: ")[2].split()[:2]
    assert option == ["--bands", "1,1,1"]
    assert call("run", tiny_bundle, grey, "-o", tmp_path / "grey", *option).exit_code == 0

    lost = write_raster(tmp_path / "it's lost; $(no).tif", noise(70, 100), crs=None)
    command = ["run", tiny_bundle, lost, "-o", tmp_path / "lost", "--polygons"]
    refused = call(*command)
    assert refused.exit_code == 1
    (line,) = (line for line in refused.stderr.splitlines() if line.startswith("error: "))
    remedy = line.partition("for UTM 32 N: ")[2]
    assert remedy.startswith("rio edit-info ")
    where = shlex.quote(str(Path(sys.executable).parent))
    subprocess.run(f"PATH={where}:$PATH; {remedy}", shell=True, check=True)
    assert call(*command).exit_code == 0
    assert (tmp_path / "lost" / "it's lost; $(no).geojson").exists()


def test_files_of_all_kinds_with_a_place_go_the_raster_way(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """World file, VRT and JPEG 2000 in one folder, and a picture without a place."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    pixels = np.ascontiguousarray(noise(70, 100).transpose(1, 2, 0))
    Image.fromarray(pixels).save(folder / "plain.png")
    Image.fromarray(pixels).save(folder / "world.png")
    (folder / "world.pgw").write_text("0.5\n0\n0\n-0.5\n346000.25\n5647999.75\n")
    (folder / "world.prj").write_text(CRS.from_epsg(25832).to_wkt(version="WKT1_ESRI"))
    tile = write_raster(folder / "tile.tif", noise(70, 100))
    rasterio.shutil.copy(tile, folder / "virtual.vrt", driver="VRT")
    options = {"QUALITY": "100", "REVERSIBLE": "YES"}
    rasterio.shutil.copy(tile, folder / "wave.jp2", driver="JP2OpenJPEG", **options)
    assert call("run", tiny_bundle, folder, "-o", out, "--no-overlay").exit_code == 0
    made = {path.name for path in out.iterdir() if path.suffix != ".xml"}
    assert made == {"areas.jsonl", "plain.png", "tile.tif", "virtual.tif", "wave.tif", "world.tif"}
    lines = [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]
    areas = {json.dumps(line["areas"]) for line in lines[1:]}
    assert len(areas) == 1  # the same pixels at the same place
    for name in ("virtual", "wave", "world"):
        np.testing.assert_array_equal(labels_in(out / f"{name}.tif"), labels_in(out / "tile.tif"))

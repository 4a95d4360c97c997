"""``run`` and the health of frames: what lines and summary say, and frames that get no labels for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from segclip_deploy.artifacts.appearance import Appearance
from segclip_deploy.runtime.open_engine import Opened
from tests.conftest import EXAMPLE
from tests.runtime.formats.test_geotiff import write_geotiff
from tests.support.fake_cli import open_fake
from tests.support.helpers import call
from tests.support.weather import motion_blur

NEAR = Appearance(centre=(0.0,) * 6, metric=tuple(map(tuple, np.eye(6).tolist())))
"""A cloud around black: no frame is like it."""


@pytest.fixture
def frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real frame, a black one, and a blurred one."""
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)
    folder = tmp_path / "frames"
    folder.mkdir()
    with Image.open(EXAMPLE / "images" / "tile8_part3.jpg") as image:
        pixels = np.asarray(image)[:200, :300]
    for name, made in (("a", pixels), ("b", pixels // 32), ("c", motion_blur(pixels, 15, 20))):
        Image.fromarray(made).save(folder / f"{name}.png")
    return folder


def flown(frames: Path, out: Path, *options: str) -> tuple[Result, dict[str, dict[str, Any]]]:
    result = call("run", "ENGINE", frames, "-o", out, *options)
    lines = [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]
    return result, {Path(line["image"]).stem: line for line in lines}


def test_every_line_says_what_is_wrong_with_its_frame(frames: Path, tmp_path: Path) -> None:
    result, lines = flown(frames, tmp_path / "out")
    assert result.exit_code == 0
    health = {name: line["health"] for name, line in lines.items()}
    assert {name: h["problems"] for name, h in health.items()} == {
        "a": [],
        "b": ["dark"],
        "c": ["blurred"],
    }
    assert {h["refused"] for h in health.values()} == {False}
    assert {h["unlike"] for h in health.values()} == {None}  # an engine that knows no tiles
    assert 0 <= health["a"]["blur"] < 0.33 < health["c"]["blur"] <= 1
    assert all(line["labels"] for line in lines.values())
    assert all(line["ms"]["health"] > 0 for line in lines.values())
    assert "2 unhealthy frames: 1 dark, 1 blurred\n" in result.stdout
    result, _ = flown(frames, tmp_path / "out", "--json")
    said = json.loads(result.stdout)
    assert said["health"] == {
        "unhealthy": 2,
        "refused": 0,
        "problems": {"dark": 1, "bright": 0, "blurred": 1, "unlike": 0},
    }


@pytest.mark.parametrize("options", [(), ("--deadline-ms", "1000")], ids=["", "deadline"])
def test_unhealthy_frames_get_no_labels_where_that_is_asked_for(
    frames: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    flown(frames, out)  # leaves labels of all three
    result, lines = flown(frames, out, "--healthy-only", "--json", *options)
    assert result.exit_code == 3, result.output
    assert [name for name, line in lines.items() if line["labels"]] == ["a"]
    assert {name: line["health"]["refused"] for name, line in lines.items()} == {
        "a": False,
        "b": True,
        "c": True,
    }
    assert [lines[name]["areas"] for name in "bc"] == [None, None]
    assert {path.name for path in out.glob("*.png")} == {"a.png", "a.overlay.png"}
    said = json.loads(result.stdout)
    assert (said["done"], said["health"]["refused"], said["bad"]) == (1, 2, 0)
    if options:
        assert said["deadline"]["skipped"] == 0


def test_a_run_that_labels_nothing_says_why(frames: Path, tmp_path: Path) -> None:
    (frames / "a.png").unlink()
    result, _ = flown(frames, tmp_path / "out", "--healthy-only")
    assert result.exit_code == 3
    assert "0 of 2 frames, 2 unhealthy" in result.stdout
    assert "2 unhealthy frames: 1 dark, 1 blurred; 2 without labels for it" in result.stdout


def test_a_bad_image_counts_more_than_an_unhealthy_one(frames: Path, tmp_path: Path) -> None:
    (frames / "d.png").write_bytes(b"")
    result, _ = flown(frames, tmp_path / "out", "--healthy-only")
    assert result.exit_code == 1


def test_all_healthy_is_exit_code_0(frames: Path, tmp_path: Path) -> None:
    for name in "bc":
        (frames / f"{name}.png").unlink()
    assert flown(frames, tmp_path / "out", "--healthy-only")[0].exit_code == 0


def test_an_engine_that_knows_its_tiles_tells_a_frame_that_is_unlike_them(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knowing(path: str | Path, *, threads: int = 0) -> Opened:
        opened = open_fake(path, threads=threads)
        return Opened(opened.backend, opened.input, opened.vocabulary, opened.golden_path, NEAR)

    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", knowing)
    _, lines = flown(frames, tmp_path / "out")
    assert all("unlike" in line["health"]["problems"] for line in lines.values())
    assert all(line["health"]["unlike"] > 1 for line in lines.values())


def test_rasters_are_refused_where_only_healthy_frames_are_wanted(
    frames: Path, tmp_path: Path
) -> None:
    write_geotiff(frames / "r.tif", 0.3, {1024: 1, 3076: 9001})
    result = call("run", "ENGINE", frames, "-o", tmp_path / "out", "--healthy-only")
    assert result.exit_code == 2
    assert "--healthy-only is for frames" in result.stderr
    assert not (tmp_path / "out").exists()

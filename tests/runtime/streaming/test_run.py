"""Images through a segmenter into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.sinks.folder import FolderSink
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.listing import find_files
from segclip_deploy.runtime.io.sources.naming import AREAS_FILE
from segclip_deploy.runtime.streaming.run import Outcome, Run
from tests.support.fakes import FakeBackend, classes_of, random_frame

DUBAI = load_vocabulary("dubai")


def write_images(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        Image.fromarray(random_frame(50, 70, seed).pixels).save(folder / name)
    return folder


def fly(source: Path, out: Path) -> list[Outcome]:
    """All images of a folder through a per-pixel engine."""
    segmenter = Segmenter(FakeBackend(32, 64), InputSpec(32, 64), DUBAI)
    files = find_files([source], out)
    with segmenter, FolderSink(out) as sink:
        return list(Run(segmenter, FileSource(files), sink))


def areas(out: Path) -> list[dict[str, Any]]:
    lines = (out / AREAS_FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_an_image_becomes_a_label_map_an_overlay_and_a_line_of_areas(tmp_path: Path) -> None:
    source, out = write_images(tmp_path / "in", "a.png"), tmp_path / "deep" / "out"
    (outcome,) = fly(source, out)
    assert outcome.error is None
    assert {p.name for p in out.iterdir()} == {"a.png", "a.overlay.png", AREAS_FILE}

    pixels = random_frame(50, 70).pixels
    expected = classes_of(pixels)
    with Image.open(out / "a.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), expected)
        np.testing.assert_array_equal(
            np.asarray(image.convert("RGB")), DUBAI.palette[expected], "the palette is wrong"
        )
    with Image.open(out / "a.overlay.png") as image:
        over, colours = np.asarray(image), DUBAI.palette[expected]
    assert over.shape == pixels.shape
    assert (over >= np.minimum(pixels, colours)).all()
    assert (over <= np.maximum(pixels, colours)).all()

    (line,) = areas(out)
    assert line["image"] == str(source / "a.png")
    assert line["labels"] == "a.png"
    counts = {name: area["pixels"] for name, area in line["areas"].items()}
    assert counts == {name: (expected == i).sum() for i, name in enumerate(DUBAI.names)}
    assert sum(counts.values()) == 50 * 70
    assert sum(area["share"] for area in line["areas"].values()) == pytest.approx(1, abs=1e-5)


def test_a_bad_image_is_an_outcome_and_the_others_are_done(tmp_path: Path) -> None:
    source, out = write_images(tmp_path / "in", "a.png", "b.png", "c.png"), tmp_path / "out"
    (source / "b.png").write_bytes((source / "b.png").read_bytes()[:500])
    outcomes = fly(source, out)
    assert [Path(o.source).name for o in outcomes] == ["a.png", "b.png", "c.png"]
    assert [o.error is None for o in outcomes] == [True, False, True]
    assert [o.result is None for o in outcomes] == [False, True, False]
    assert str(source / "b.png") in str(outcomes[1].error)
    assert [line["labels"] for line in areas(out)] == ["a.png", "c.png"]
    assert not (out / "b.png").exists()


def test_a_second_run_writes_into_the_folder_of_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fly(write_images(tmp_path / "one", "a.png"), out)
    fly(write_images(tmp_path / "two", "a.png", "b.png"), out)
    assert [line["labels"] for line in areas(out)] == ["a.png", "b.png"]


@pytest.mark.faults
def test_a_folder_of_other_files_is_refused_and_left_untouched(tmp_path: Path) -> None:
    out = write_images(tmp_path / "out", "a.png")
    before = (out / "a.png").read_bytes()
    with pytest.raises(BadInput, match="not written by this command") as caught:
        FolderSink(out)
    assert str(out) in str(caught.value)
    assert [p.name for p in out.iterdir()] == ["a.png"]
    assert (out / "a.png").read_bytes() == before


def test_a_file_for_an_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(BadInput, match="not written by this command"):
        FolderSink(tmp_path / "out")


@pytest.mark.parametrize(
    "names",
    [("one/a.png", "one/a.jpg"), ("one/a.png", "one/a.png"), ("one/a.png", "one/a.overlay.png")],
)
@pytest.mark.faults
def test_images_whose_results_would_collide_are_refused(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(BadInput, match="overwrite those of") as caught:
        find_files([tmp_path / name for name in names], tmp_path / "out")
    assert all(str(tmp_path / name) in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["one/a.png", "two/a.png"], ["one/a", "two/a"]),
        (["two", "one/a.png"], ["two/a", "two/deep/a", "one/a"]),
        (["two/deep"], ["a"]),
        (["two/deep/a.png"], ["a"]),
        (["one", "one/../two/deep"], ["one/a", "two/deep/a"]),
    ],
)
def test_results_are_named_below_the_deepest_folder_of_all(
    tmp_path: Path, given: list[str], expected: list[str]
) -> None:
    for folder in ("one", "two", "two/deep", "two/.hidden", "two/before", "two/out"):
        write_images(tmp_path / folder, "a.png")
    (tmp_path / "two" / "before" / AREAS_FILE).touch()  # results of an earlier run
    found = find_files([tmp_path / path for path in given], tmp_path / "two" / "out")
    assert [file.name for file in found] == expected


def test_results_are_not_written_among_the_images(tmp_path: Path) -> None:
    source = write_images(tmp_path / "in", "a.png")
    (source / AREAS_FILE).touch()
    for out in (source, source / ".." / "in"):
        with pytest.raises(BadInput, match="among the images"):
            find_files([source], out)
    # In the results of two folders --keep would remove them.
    below = write_images(source / "seq1", "b.png")
    with pytest.raises(BadInput, match="among the images"):
        find_files([below], source)

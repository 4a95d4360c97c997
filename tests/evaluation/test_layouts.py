"""The published datasets as they are downloaded, in miniature; and what is wrong with trees."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.evaluation.dataset_index import read_index
from segclip_deploy.evaluation.layouts import find_layout
from segclip_deploy.model.text import save_text_bank
from tests.conftest import SHARED
from tests.support.fakes import random_bank
from tests.support.helpers import call
from tests.support.trees import TREES, Pair, isaid, loveda, mmseg, pairs, uavid


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, Path]:
    """(layout, vocabulary, root)."""
    vocabulary, write = TREES[request.param]
    return request.param, vocabulary, write(tmp_path / "data", list(pairs(vocabulary, 6)))


def test_a_tree_is_known_by_what_is_there_and_read_with_its_masks(
    tree: tuple[str, str, Path],
) -> None:
    layout, vocabulary, root = tree
    before = sorted(root.rglob("*"))
    data = open_dataset(root, load_vocabulary(vocabulary))
    assert data.index.layout == layout
    assert data.index.held_out
    written = list(pairs(vocabulary, 6))
    values = [entry.mask_value for entry in data.vocabulary.classes]
    seen = 0
    for split in ("train", "plan", "val"):
        assert data.names(split)
        for sample in data.samples(split):
            whole = next(
                i for i, (image, _) in enumerate(written) if _is_in(sample.frame.pixels, image)
            )
            assert _is_in(np.array(values, np.uint8)[sample.ground_truth], written[whole][1])
            assert (split == "val") == (whole % 3 == 2)
            seen += 1
    assert seen == (12 if layout == "mmseg" else 6)
    assert sorted(root.rglob("*")) == before


def _is_in(part: np.ndarray, whole: np.ndarray) -> bool:
    """Whether a patch is the left or right side of a picture, or all of it."""
    width = part.shape[1]
    return bool((whole[:, :width] == part).all() or (whole[:, -width:] == part).all())


def test_the_plan_is_of_whole_scenes_and_the_same_whatever_else_is_there(tmp_path: Path) -> None:
    many = [next(pairs("isaid", 1, 8))] * 90
    root = mmseg(tmp_path / "many", many)
    index = read_index(root)
    scenes = {s: {index.entries[n].scene for n in index.splits[s]} for s in ("train", "plan")}
    assert not scenes["train"] & scenes["plan"]
    assert 2 <= len(scenes["plan"]) <= 15
    fewer = read_index(mmseg(tmp_path / "fewer", many[:60]))
    kept = [n for n in index.splits["plan"] if n in fewer.entries]
    assert set(kept) == set(fewer.splits["plan"])


def test_a_tree_of_none_or_of_two_layouts_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such folder: a dataset has images/ and masks/"):
        find_layout(tmp_path / "nothing")
    root = loveda(tmp_path / "both", list(pairs("loveda", 3, 8)))
    (root / "images").mkdir()
    with pytest.raises(BadInput, match="may be segclip-deploy or loveda; say which: --layout"):
        find_layout(root)
    assert find_layout(root, "loveda").name == "loveda"
    with pytest.raises(BadInput, match="not of layout uavid: it has no uavid_train"):
        find_layout(root, "uavid")


def test_a_survey_counts_and_tells_everything_that_is_wrong(tmp_path: Path) -> None:
    root = loveda(tmp_path / "data", list(pairs("loveda", 6)))
    good = call("dataset", root, "--sheet", tmp_path / "sheet.png")
    assert good.exit_code == 0, good.stdout
    assert "nothing is wrong" in good.stdout
    assert Image.open(tmp_path / "sheet.png").size == (4 * 528 + 8, 2 * 286 + 8)
    masks = sorted((root / "Train").rglob("masks_png/*.png"))
    masks[0].unlink()
    Image.fromarray(np.full((128, 128), 9, np.uint8)).save(masks[1])
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(masks[2])
    copy = next((root / "Train").rglob("images_png/*.png"))
    (root / "Val" / "Rural" / "images_png").mkdir(parents=True, exist_ok=True)
    (root / "Val" / "Rural" / "images_png" / "copy.png").write_bytes(copy.read_bytes())
    found = call("dataset", root, "--json")
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    wrong = " ".join(problem["what"] for problem in told["problems"])
    for part in (
        "have no mask",
        "mask values [9] are not in",
        "another size",
        "one picture in the splits",
    ):
        assert part in wrong
    assert told["splits"]["test"]["masks"] == 0
    assert sum(split["images"] for split in told["splits"].values()) == 8


def test_a_tree_goes_all_the_way(tree: tuple[str, str, Path], tmp_path: Path) -> None:
    _, vocabulary, root = tree
    classes = len(load_vocabulary(vocabulary).classes)
    _go(root, vocabulary, classes, tmp_path)


def _go(root: Path, vocabulary: str, classes: int, out: Path) -> None:
    bank, checkpoint, bundle = out / "bank.safetensors", out / "c.safetensors", out / "bundle"
    save_text_bank(bank, random_bank(0, classes=classes))
    given = ("--vocabulary", vocabulary)
    sized = ("--crop", "64", "--batch", "2", "--width", "32", "--steps", "20", "--no-imagenet")
    encoder = ("--encoder", "timm:test_efficientnet")
    for command in (
        ("dataset", root, *given),
        ("train", root, *given, "--text", bank, "-o", checkpoint, *sized, *encoder),
        ("export", checkpoint, "-o", bundle, "--size", "32x32", "--for", "cpu"),
        ("evaluate", bundle, root),
        (
            "calibrate",
            bundle,
            "--tiles",
            root,
            "--eval",
            root,
            "-o",
            out / "t.json",
            "--select",
            16,
        ),
        ("run", bundle, root, "-o", out / "labels"),
    ):
        done = call(*command)
        assert done.exit_code == 0, (command, done.stdout[-500:], done.stderr[-500:])


@pytest.mark.shared
@pytest.mark.parametrize("layout", ["loveda", "isaid", "uavid"])
def test_genuine_pictures_go_through_a_survey(layout: str, tmp_path: Path) -> None:
    """Their own pixels and masks, in their own tree; UAVid's are of a film and merge its cars."""
    folder = {"loveda": "loveda_mmseg", "isaid": "isaid_devkit", "uavid": "uavid_gif_lossy"}[layout]
    files = sorted((SHARED / folder / "images").iterdir())[:3]
    genuine: list[Pair] = []
    for file in files:
        mask = next((SHARED / folder / "masks").glob(f"{file.stem}.*"))
        values = np.asarray(Image.open(mask)).copy()
        if layout == "uavid":
            values[values == 255] = 0  # the publisher's masks have no pixel without a class
        genuine.append((np.asarray(Image.open(file).convert("RGB")), values))
    root = {"loveda": loveda, "isaid": isaid, "uavid": uavid}[layout](tmp_path / "data", genuine)
    found = call("dataset", root, "--json")
    assert found.exit_code == 0, found.stdout
    told = json.loads(found.stdout)
    assert told["layout"] == layout
    assert sum(split["pixels"] for split in told["splits"].values()) > 10**5


def test_a_dataset_is_listed_once_however_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(index) for index in range(500)]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.png").touch()
    (tmp_path / "split.json").write_text(json.dumps({"train": names}))
    listed: list[object] = []
    for place, name in ((os, "scandir"), (os, "listdir")):
        look = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *a, look=look: (listed.append(a), look(*a))[1])
    index = read_index(tmp_path)
    assert len(listed) < 10
    for name in names:
        assert index.image(name, tmp_path).stem == name
    assert len(listed) < 10

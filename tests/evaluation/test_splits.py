"""Which split is taken where none is named, and who is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import choose_plan_split, open_dataset
from tests.conftest import EXAMPLE
from tests.support.helpers import call


def _dataset(root: Path, splits: dict[str, list[str]] | None) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
        for name in ("a", "b", "c"):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / folder / f"{name}.png")
    if splits is not None:
        (root / "split.json").write_text(json.dumps(splits))
    return root


@pytest.mark.parametrize(
    ("splits", "asked", "usual", "taken"),
    [
        (None, None, "val", "all"),
        (None, None, "plan", "all"),
        ({"test": ["a", "b"]}, None, "val", "test"),
        ({"train": ["a"], "val": ["b"]}, None, "val", "val"),
        ({"train": ["a"], "val": ["b"]}, "train", "val", "train"),
    ],
)
def test_the_usual_split_or_the_only_one_is_taken(
    tmp_path: Path,
    vocabulary: Vocabulary,
    splits: dict[str, list[str]] | None,
    asked: str | None,
    usual: str,
    taken: str,
) -> None:
    data = open_dataset(_dataset(tmp_path / "d", splits), vocabulary)
    assert data.choose_split(asked, usual) == taken


@pytest.mark.parametrize(("asked", "splits"), [(None, ["train", "val"]), ("val", ["all"])])
def test_nothing_is_guessed_among_several_and_nothing_taken_for_what_was_named(
    tmp_path: Path, vocabulary: Vocabulary, asked: str | None, splits: list[str]
) -> None:
    data = open_dataset(_dataset(tmp_path / "d", {name: ["a"] for name in splits[:1]} | {
        name: ["b"] for name in splits[1:]}), vocabulary)  # fmt: skip
    with pytest.raises(BadInput, match=rf"no split '{asked or 'plan'}' \(it has {splits[0]}"):
        data.choose_split(asked, "plan")


def test_a_plan_that_is_evaluated_on_another_split_says_so(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    said: list[str] = []
    data = open_dataset(_dataset(tmp_path / "d", None), vocabulary)
    assert choose_plan_split(data, None, lambda line, _d, _t: said.append(line)) == "all"
    assert "no split plan, so plans are evaluated on all" in said[0]
    assert choose_plan_split(data, "all", lambda line, _d, _t: said.append(line)) == "all"
    assert len(said) == 1


def test_who_chooses_and_scores_on_the_same_images_is_told(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    arguments = ("benchmark", tiny_bundle, "--eval", EXAMPLE, "--calib", EXAMPLE / "images")
    options = ("-o", tmp_path / "r", "--dry-run", "--target", "onnxruntime")
    both = call(*arguments, *options)
    assert both.exit_code == 0, both.stderr
    assert "no split plan, so all chooses planned mixes and scores them" in both.stderr
    scored = call(*arguments, *options, "--precision", "fp32")
    assert "planned mixes" not in scored.stderr

"""Recipes: shipped ones are valid and sourced; what a command says goes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from segclip_deploy import api
from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES
from segclip_deploy.model.text import save_text_bank
from segclip_deploy.training.recipe import Recipe, load_recipe, shipped_recipes
from tests.support.fakes import random_bank
from tests.support.trees import loveda, pairs


def test_each_published_layout_has_a_recipe_that_trains_and_says_where_it_comes_from() -> None:
    assert set(shipped_recipes()) == set(LAYOUT_NAMES) - {"segclip-deploy", "mmseg"}
    for name in shipped_recipes():
        recipe = load_recipe(name)
        assert "https://" in recipe.source
        assert (
            TrainSettings(steps=recipe.steps, **recipe.under(crop=None, zoom=None)).crop % 32 == 0
        )


def test_a_recipe_gives_what_the_command_does_not(tmp_path: Path) -> None:
    path, text = tmp_path / "mine.yaml", tmp_path / "text.safetensors"
    path.write_text("{source: mine, crop: 64, batch: 2, steps: 3, zoom: [0.8, 1.25]}")
    save_text_bank(text, random_bank(0, classes=7))
    training = api.train(
        loveda(tmp_path / "data", list(pairs("loveda", 6))),
        vocabulary="loveda",
        text=str(text),
        out=tmp_path / "a.safetensors",
        recipe=path,
        steps=1,
        encoder="timm:test_efficientnet",
        imagenet=False,
        width=16,
    )
    settings = training.settings
    assert (settings.crop, settings.batch, settings.zoom) == (64, 2, (0.8, 1.25))
    assert settings.steps == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{source: x, crops: 64}", "crops: is not known"),
        ("{crop: 64}", "source: is missing"),
        ("{source: x, batch: 1}", "batch: 1 is less than 2"),
        ("{source: x, zoom: [1]}", "zoom"),
        ("[", "not YAML"),
    ],
)
def test_a_recipe_that_is_none_is_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_recipe(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_fine_tuning_takes_no_recipe() -> None:
    with pytest.raises(UsageError, match="--recipe is for new models"):
        api.train("d", vocabulary="dubai", text="t", out="o", recipe="loveda", qat=True)


def test_no_recipe_is_every_default() -> None:
    assert Recipe(source="").under(crop=None, batch=4) == {"batch": 4}

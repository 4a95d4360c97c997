"""Recipes: options of ``train`` that suit a dataset, with where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.records import Record, convert
from segclip_deploy.artifacts.shipped import load_yaml, shipped_names
from segclip_deploy.errors import BadInput

__all__ = ["Recipe", "load_recipe", "shipped_recipes"]

_SHIPPED = "training/recipes"


class Recipe(Record, frozen=True):
    """Options of ``train``, by their names; None leaves one as it is.

    Attributes:
        source: where they come from, and whether they were tried, for people.
        crop: side of the training crops, pixels.
        batch: crops that are in the network at once.
        accumulate: batches a step.
        steps: length of the run.
        zoom: least and greatest factor that crops are scaled by.
        learning_rate: at its peak.

    Raises:
        BadInput: a number that no training takes.
    """

    source: str
    crop: int | None = None
    batch: int | None = None
    accumulate: int | None = None
    steps: int | None = None
    zoom: tuple[float, float] | None = None
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        least = {"batch": 2, "accumulate": 1, "steps": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise BadInput(f"{name}: {value} is less than {low}")

    def under(self, **given: Any) -> dict[str, Any]:
        """Settings by name: what is given, or else what this recipe says; none where neither does."""
        both = {k: getattr(self, k) if value is None else value for k, value in given.items()}
        return {name: value for name, value in both.items() if value is not None}


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return shipped_names(_SHIPPED)


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Load a shipped recipe by name, or one from a YAML file.

        load_recipe("loveda").crop  # 512

    Raises:
        BadInput: no such recipe, or not a valid one.
    """
    data = load_yaml(name_or_path, _SHIPPED, noun="recipe")
    try:
        return convert(data, Recipe, noun="a valid recipe")
    except BadInput as error:
        raise BadInput(error.what, where=name_or_path) from error

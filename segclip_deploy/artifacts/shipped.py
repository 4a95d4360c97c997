"""YAML that comes with the package by name, or that somebody wrote by path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from segclip_deploy.errors import BadInput

__all__ = ["load_yaml", "shipped_names"]


def shipped_names(folder: str) -> tuple[str, ...]:
    """Names of the YAML files in a folder of the package, as ``"artifacts/vocabularies"``."""
    files = (resources.files("segclip_deploy") / folder).iterdir()
    return tuple(sorted(f.name[:-5] for f in files if f.name.endswith(".yaml")))


def load_yaml(name_or_path: str | Path, folder: str, *, noun: str) -> Any:
    """What a shipped file, by its name, or any YAML file, by its path, says.

        load_yaml("loveda", "training/recipes", noun="recipe")["crop"]  # 512

    Args:
        name_or_path: a shipped name goes first.
        folder: of the shipped files, below the package.
        noun: what it is, for people.

    Raises:
        BadInput: no such file, or not YAML.
    """
    import yaml  # here, because `--help` and the runtime never need it

    shipped = shipped_names(folder)
    if str(name_or_path) in shipped:
        source = resources.files("segclip_deploy") / folder / f"{name_or_path}.yaml"
        text = source.read_text(encoding="utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"no such {noun}, and no readable file of that name",
                where=name_or_path,
                fix=f"use one of {', '.join(shipped)}, or the path of a YAML file",
            ) from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date
        raise BadInput(f"not YAML ({error})", where=name_or_path) from error

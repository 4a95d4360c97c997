"""One name, one thing: no two modules, and no two public names, of the package are called the same."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import segclip_deploy

PACKAGE = Path(segclip_deploy.__file__).parent

VERBS = ("cli", "api")
"""Folders whose modules and functions are called as the verb that they offer to a user."""

SHARED_FILES = (
    "__init__.py",
    "base.py",
)  # the face of a folder, and what its modules have in common


def modules() -> Iterator[Path]:
    """All modules but those of the verbs."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in VERBS:
            yield path


def public_definitions(source: str) -> set[str]:
    """The names of ``__all__`` that a module defines; what it imports is at home elsewhere."""
    listed: list[str] = []
    defined: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            defined |= names
            if "__all__" in names and node.value is not None:
                listed = ast.literal_eval(node.value)
    return defined.intersection(listed)


def test_no_two_modules_share_a_file_name() -> None:
    found = defaultdict(list)
    for path in modules():
        if path.name not in SHARED_FILES:
            found[path.name].append(path.relative_to(PACKAGE).as_posix())
    assert len(found) > 150
    assert not {name: paths for name, paths in found.items() if len(paths) > 1}


def test_no_two_public_names_are_the_same() -> None:
    found = defaultdict(list)
    for path in modules():
        for name in public_definitions(path.read_text(encoding="utf-8")):
            found[name].append(path.relative_to(PACKAGE).as_posix())
    assert len(found) > 600
    assert not {name: paths for name, paths in found.items() if len(paths) > 1}


def test_a_public_definition_is_listed_and_not_imported() -> None:
    source = "from a import B\n__all__ = ['B', 'C', 'd', 'E']\nclass C: ...\ndef d(): ...\nE: int = 1\nF = 2"
    assert public_definitions(source) == {"C", "d", "E"}

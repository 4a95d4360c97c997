"""The examples in docstrings run, in a folder that holds what the package's own docstring names."""

from __future__ import annotations

import doctest
import inspect
import shutil
from importlib import import_module
from pathlib import Path

import pytest

import segclip_deploy
from segclip_deploy import api
from tests.conftest import EXAMPLE, ROOT

PACKAGE = Path(segclip_deploy.__file__).parent

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)

PLAIN = {"SegclipError", "StageTimes", "Bundle", "Engine"}
"""Explain themselves, or are made by what has an example."""

VERBS = {name for name in api.__all__ if inspect.isfunction(getattr(api, name))}

SLOW = {
    *(
        "benchmark",
        "build_engine",
        "calibrate",
        "compare",
        "dataset",
        "evaluate",
        "export",
        "import_",
        "list_keys",
    ),
    *(
        "compact",
        "map",
        "plan",
        "profile",
        "quantize",
        "report",
        "ros",
        "set_texts",
        "smooth",
        "train",
    ),
}
"""Verbs that need more than the folder below, or take long: tests/api/test_api.py runs them. Their examples are shown."""


@pytest.fixture(scope="session")
def examples(example_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(example_bundle, folder / "dubai")
    shutil.copy(EXAMPLE / "images" / "tile6_part8.jpg", folder / "tile.jpg")
    api.build_engine(example_bundle, out=folder / "dubai.ort.onnx")
    return folder


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(
    module: str, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(examples)
    failed, tried = doctest.testmod(import_module(module))
    assert tried
    assert not failed


@pytest.mark.parametrize(
    "name", sorted({*segclip_deploy.__all__} - PLAIN - {*api.__all__, "api"} | {*VERBS})
)
def test_what_the_package_offers_has_an_example(name: str) -> None:
    documented = getattr(segclip_deploy if name in segclip_deploy.__all__ else api, name).__doc__
    assert (f"api.{name}(" if name in SLOW else ">>> ") in documented

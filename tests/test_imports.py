"""What imports what, and what an import costs."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import segclip_deploy
from segclip_deploy import _optional
from segclip_deploy.errors import MissingDependency

PACKAGE = Path(segclip_deploy.__file__).parent

ORDER = (
    ("errors", "_optional", "progress"),
    ("artifacts",),
    ("runtime",),
    ("cluster", "evaluation"),
    ("model",),
    ("export",),
    ("calibration",),
    ("quantization",),
    ("planning",),
    ("training",),
    ("tradeoff",),
    ("api",),
    ("cli",),
)
RUNG = {name: rung for rung, names in enumerate(ORDER) for name in names}

HEAVY = {"torch", "onnx", "timm", "open_clip"}
ALL_HEAVY = HEAVY | {"onnxruntime", "openvino", "modelopt", "rich", "distributed", "dask"}


def imported(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Dotted names of everything a module's source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") + ["x"] * is_package
                base = ".".join([*parts[: -node.level], *([node.module] if node.module else [])])
            # `from package import name` may name a module.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def upward(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports of the package's own modules that stand above ``module`` in ORDER, or nowhere."""
    # The package itself re-exports the API, and nothing above it.
    own = [*module.split("."), "api"][1]
    found = []
    for name in imported(source, module, is_package=is_package):
        root, _, rest = name.partition(".")
        part = rest.partition(".")[0]
        if root != "segclip_deploy" or not part or part.startswith("__"):
            continue
        if RUNG.get(part, len(ORDER)) > RUNG[own]:
            found.append(name)
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_module_imports_only_from_its_own_rung_and_below(path: Path) -> None:
    parts = ["segclip_deploy", *path.relative_to(PACKAGE).with_suffix("").parts]
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert not upward(path.read_text(encoding="utf-8"), module, is_package=is_package)


@pytest.mark.parametrize(
    "source",
    [
        "import segclip_deploy.cli.output",
        "from segclip_deploy import training",
        "from segclip_deploy.export import graph",
        "from ...model import spec",
        "from segclip_deploy.nowhere import thing",
        "def f():\n    from segclip_deploy.evaluation.dataset import Sample",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import segclip_deploy.evaluation.accuracy",
    ],
)
def test_an_upward_import_is_found_in_every_form(source: str) -> None:
    assert upward(source, "segclip_deploy.runtime.inference.frame")


def arrows() -> dict[str, set[str]]:
    """Folder → folders that its modules import from, the face of the package left out."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ["segclip_deploy", *path.relative_to(PACKAGE).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        if module == "segclip_deploy":
            continue
        for name in imported(path.read_text(encoding="utf-8"), module, is_package=is_package):
            target = PACKAGE.parent.joinpath(*name.split("."))
            if not target.with_suffix(".py").is_file():
                target = target.parent  # the name of something in a module
            if PACKAGE in target.parents:
                folder, own = (p.parent.relative_to(PACKAGE.parent) for p in (target, path))
                if folder != own:
                    found.setdefault(own.as_posix(), set()).add(folder.as_posix())
    return found


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Some folders of a graph that import each other in a loop; none if there is no loop."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_folders_import_each_other_in_a_circle() -> None:
    graph = arrows()
    assert {"segclip_deploy/runtime/targets", "segclip_deploy/cli"} <= graph.keys()
    assert not circle(graph)
    assert circle({**graph, "segclip_deploy/artifacts": {"segclip_deploy/runtime/targets"}})


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("segclip_deploy", ALL_HEAVY),
        ("segclip_deploy.api", ALL_HEAVY | {"numpy"}),
        ("segclip_deploy.runtime.open_engine", HEAVY),
        ("segclip_deploy.runtime.streaming.run", HEAVY),
        ("segclip_deploy.evaluation.accuracy", HEAVY),
        ("segclip_deploy.export.set_texts", HEAVY),
        ("segclip_deploy.calibration.sheet", ALL_HEAVY),
    ],
)
def test_an_import_leaves_heavy_packages_unloaded(module: str, forbidden: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert module in loaded
    assert not forbidden.intersection(loaded)


def test_a_command_is_imported_when_it_is_called_and_heavy_packages_when_it_works() -> None:
    commands = {f"segclip_deploy.cli.{name}" for name in ("run", "compact", "benchmark", "map")}
    overview = "from segclip_deploy.cli import main; main(['--help'], standalone_mode=False)"
    modules = [f"segclip_deploy.cli.{path.stem}" for path in (PACKAGE / "cli").glob("[a-z]*.py")]
    assert commands < {*modules}
    for code, present in ((overview, set()), (f"import {', '.join(modules)}", commands)):
        loaded = subprocess.run(
            [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert commands.intersection(loaded) == present
        assert not ALL_HEAVY.intersection(loaded)


def test_every_name_the_package_offers_is_found_at_first_use() -> None:
    for name in segclip_deploy.__all__:
        assert getattr(segclip_deploy, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = segclip_deploy.no_such_name


def test_the_package_lists_what_it_offers_before_it_is_used() -> None:
    code = "import sys, segclip_deploy; print(*dir(segclip_deploy), *sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {*segclip_deploy.__all__, "__version__", "__doc__"} <= {*found}
    assert "segclip_deploy.runtime" not in found  # listing imports nothing
    assert "TYPE_CHECKING" not in dir(segclip_deploy)


def test_a_star_brings_every_name_and_no_heavy_package() -> None:
    code = "from segclip_deploy import *; import sys; print(*dir(), *sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {*segclip_deploy.__all__} <= {*found}
    assert not HEAVY.intersection(found)


@pytest.mark.alone
def test_help_appears_within_two_tenths_of_a_second() -> None:
    command = [sys.executable, "-c", "from segclip_deploy.cli import main; main()", "--help"]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
        assert "build-engine" in done.stdout
    assert min(seconds) < 0.2


@pytest.mark.parametrize("module", sorted(_optional._EXTRA_OF))
def test_a_missing_package_is_reported_with_the_extra_that_brings_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match="flying needs the package") as caught:
        _optional.require(module, why="flying")
    extra = _optional._EXTRA_OF[module]
    assert _optional.install_command(extra) in str(caught.value)
    brought = [
        requirement
        for requirement in importlib.metadata.requires("segclip-deploy") or ()
        if f"extra == '{extra}'" in requirement
    ]
    name = {"modelopt": "nvidia-modelopt"}.get(module, module).replace("_", "-")
    assert any(r.replace("_", "-").startswith(name) for r in brought)


def test_a_missing_package_of_no_extra_is_reported_by_its_own_name() -> None:
    with pytest.raises(MissingDependency, match=r"pip install no_such_package_here$"):
        _optional.require("no_such_package_here.part", why="nothing")

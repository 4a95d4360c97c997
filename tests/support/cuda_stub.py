"""Write a type stub of cuda.bindings.driver, which is Cython and has none.

    python -m tests.support.cuda_stub FOLDER

Parameters have the names and types that the functions tell. What they return is not told.
"""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


def stub_of(module: ModuleType) -> Iterator[str]:
    """Its lines."""
    yield "from enum import IntEnum\nfrom typing import Any\n"
    classes = {name for name, value in vars(module).items() if inspect.isclass(value)}
    for name, value in vars(module).items():
        if name.startswith("_") or not name.isidentifier():
            continue
        if inspect.isclass(value) and issubclass(value, enum.Enum):
            yield f"class {name}(IntEnum):"
            yield from (f"    {member} = {one.value}" for member, one in value.__members__.items())
        elif inspect.isclass(value):
            yield f"class {name}:\n    def __init__(self, *_: Any, **__: Any) -> None: ..."
            yield from (f"    {one}: Any" for one in dir(value) if not one.startswith("_"))
        elif callable(value):
            yield f"def {name}({_parameters(value, classes)}) -> Any: ..."


def _parameters(function: Any, classes: set[str]) -> str:
    try:
        told = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return "*_: Any, **__: Any"
    typed = ((one.name, str(one.annotation)) for one in told)
    return ", ".join(f"{name}: {kind if kind in classes else 'Any'}" for name, kind in typed)


if __name__ == "__main__":
    from cuda.bindings import driver

    folder = Path(sys.argv[1], "cuda", "bindings")
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.pyi").touch()
    (folder / "driver.pyi").write_text("\n".join(stub_of(driver)) + "\n")

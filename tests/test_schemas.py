"""The JSON Schemas in the docs are those of the records."""

from __future__ import annotations

import runpy
from pathlib import Path

HERE = Path(__file__).parents[1] / "docs" / "reference" / "schemas"


def test_the_schemas_in_the_docs_are_those_of_the_records() -> None:
    made = runpy.run_path(str(HERE / "make.py"))["schemas"]()
    kept = {path.name: path.read_text(encoding="utf-8") for path in HERE.glob("*.schema.json")}
    stale = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    assert not stale, f"{', '.join(stale)}: python docs/reference/schemas/make.py writes them anew"

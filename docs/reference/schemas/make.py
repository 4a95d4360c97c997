"""Write the JSON Schema of every file format beside this file, as NAME.schema.json.

    python docs/reference/schemas/make.py

The tests compare: whoever changes a record runs this, and commits what it writes.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle_record import BUNDLE
from segclip_deploy.artifacts.checkpoint_record import CHECKPOINT
from segclip_deploy.artifacts.engine_record import ENGINE
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.latency_table import LATENCY_TABLE, PROBES
from segclip_deploy.artifacts.plan import PLAN
from segclip_deploy.artifacts.records import Format
from segclip_deploy.calibration.table import TABLE
from segclip_deploy.runtime.profiling.record import PROFILE
from segclip_deploy.tradeoff.board_folder import MANIFEST
from segclip_deploy.tradeoff.results import RESULTS

FORMATS: Mapping[str, Format[Any]] = {
    "bundle": BUNDLE,
    "checkpoint": CHECKPOINT,
    "engine": ENGINE,
    "latency": LATENCY_TABLE,
    "manifest": MANIFEST,
    "plan": PLAN,
    "probes": PROBES,
    "profile": PROFILE,
    "results": RESULTS,
    "table": TABLE,
}
"""A line a format, by the name of its schema."""


def schemas() -> dict[str, str]:
    """The text of each file, by its name."""
    return {
        f"{name}.schema.json": json.dumps(_described(one.json_schema()), indent=2) + "\n"
        for name, one in FORMATS.items()
    }


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what docstrings say of attributes at the properties, where editors show it."""
    for part in schema["$defs"].values():
        if "description" not in part:
            continue
        # The words of Python, in those of JSON.
        text = re.sub(r"\bNone\b", "null", inspect.cleandoc(part.pop("description")))
        told, _, attributes = text.replace("``", "`").partition("\nAttributes:\n")
        part["description"] = told.strip()
        attributes = attributes.partition("\n\n")[0]  # what follows is of raised errors
        for names, what in re.findall(
            r"^    ([\w, ]+): (.*(?:\n     +.*)*)", attributes, re.MULTILINE
        ):
            for name in names.split(", "):
                if name in part.get("properties", {}):
                    part["properties"][name]["description"] = " ".join(what.split())
    return schema


if __name__ == "__main__":
    for name, text in schemas().items():
        with replace_file(Path(__file__).with_name(name)) as temporary:
            temporary.write_text(text, encoding="utf-8")

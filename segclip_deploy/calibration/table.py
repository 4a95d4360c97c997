"""The CalibrationTable: ranges of activations, and proof of what they were measured on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle import Bundle, check_schema
from segclip_deploy.artifacts.files import UNREADABLE, read_json, write_json
from segclip_deploy.errors import BadArtifact, StaleArtifact, command

__all__ = ["TABLE_SCHEMA", "CalibrationTable", "Range", "check_table", "load_table", "save_table"]

TABLE_SCHEMA = 2
"""2 added the means."""


@dataclass(frozen=True)
class Range:
    """The values of a tensor that stay within the levels; what lies beyond is clipped.

    Attributes:
        low, high: for asymmetric levels.
        magnitude: for symmetric ones, ±.
    """

    low: float
    high: float
    magnitude: float


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges by tensor, and where they come from.

    Attributes:
        bundle: SHA-256 of the record of the bundle they were measured in.
        method: how a range was chosen from a histogram.
        ranges: by tensor name.
        tiles: source, position and SHA-256 of every tile's pixels.
        bands: mean and standard deviation of R, G and B over the tiles, in levels of 0–255.
        coverage: how well the tiles stand for the pool they were chosen from.
        means: of every channel that a product with trained weights reads, by node: its bias can
            be corrected. A product whose weights were trained with the rounding has none.
    """

    bundle: str
    method: str
    ranges: Mapping[str, Range]
    tiles: tuple[Mapping[str, Any], ...]
    bands: Mapping[str, Any]
    coverage: Mapping[str, Any]
    means: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON, with the digest that tells an edit."""
        data = {"schema": TABLE_SCHEMA, **asdict(self)}
        data["ranges"] = {
            name: [r.low, r.high, r.magnitude] for name, r in sorted(self.ranges.items())
        }
        return {**data, "digest": _digest(data)}


def save_table(path: Path, table: CalibrationTable) -> None:
    """Write a table, atomically."""
    write_json(path, table.to_json())


def load_table(path: Path) -> CalibrationTable:
    """Read a table.

    Raises:
        BadArtifact: not a calibration table.
        StaleArtifact: it was edited.
    """
    data = read_json(path)
    remedy = command("segclip-deploy", "calibrate", "BUNDLE", "--tiles", "DIR", "-o", path)
    try:
        check_schema(data, TABLE_SCHEMA, where=path)
        digest = data.pop("digest")
        table = CalibrationTable(
            bundle=data["bundle"],
            method=data["method"],
            ranges={name: Range(*values) for name, values in data["ranges"].items()},
            tiles=tuple(data["tiles"]),
            bands=data["bands"],
            coverage=data["coverage"],
            means={node: tuple(values) for node, values in data["means"].items()},
        )
        numbers = chain(*(vars(r).values() for r in table.ranges.values()), *table.means.values())
        whole = all(math.isfinite(number) for number in numbers)
    except UNREADABLE as error:
        raise BadArtifact(f"not a calibration table ({error!r})", where=path, fix=remedy) from error
    if digest != _digest(data) or not whole:
        raise StaleArtifact("edited since it was measured", where=path, fix=remedy)
    return table


def check_table(table: CalibrationTable, bundle: Bundle, *, where: Path = Path("TABLE")) -> None:
    """Accept a table that was measured in this bundle.

    Raises:
        StaleArtifact: it was measured in another.
    """
    if table.bundle != bundle.sha256:
        raise StaleArtifact(
            f"measured in another bundle than {bundle.path}",
            where=where,
            fix=command("segclip-deploy", "calibrate", bundle.path, "--tiles", "DIR", "-o", where),
        )


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

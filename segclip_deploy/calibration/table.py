"""The CalibrationTable: ranges of activations, and proof of what they were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.appearance import Appearance
from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.errors import StaleArtifact, command

__all__ = [
    "TABLE",
    "BandStatistics",
    "CalibrationTable",
    "ClassShares",
    "CoverageRecord",
    "DescriptorSpan",
    "GraphStatistics",
    "MeasuredTile",
    "Range",
    "check_table",
    "load_table",
    "save_table",
]


class Range(Record, frozen=True, array_like=True):
    """The values of a tensor that stay within the levels; what lies beyond is clipped.

    Attributes:
        low, high: for asymmetric levels.
        magnitude: for symmetric ones, ±.
    """

    low: float
    high: float
    magnitude: float


class MeasuredTile(Record, frozen=True):
    """A tile that ranges were measured on.

    Attributes:
        source: name of its image.
        top, left: pixels.
        sha256: of its shape and pixels.
    """

    source: str
    top: int
    left: int
    sha256: str


class BandStatistics(Record, frozen=True):
    """Statistics of R, G and B over the tiles, in levels of 0–255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ClassShares(Record, frozen=True):
    """The share of pixels that a class is predicted on, 0 to 1, in the pool and in the chosen tiles."""

    pool: float
    chosen: float


class DescriptorSpan(Record, frozen=True):
    """A descriptor of tiles: its range in the pool, and how much of it the chosen ones reach.

    Attributes:
        p1, p99: percentiles of the pool.
        covered: share of the twentieths of that range with tiles that hold chosen ones.
    """

    p1: float
    p99: float
    covered: float


class CoverageRecord(Record, frozen=True):
    """How well the chosen tiles stand for the pool they are from (``coverage.Coverage``).

    Attributes:
        images, pool, chosen: counts of images, of their usable tiles, and of the chosen ones.
        constant, invalid, repeated: tiles left out of the pool.
        classes: by class name.
        descriptors: by name.
        radius, random_radius: largest distance of a tile from its nearest chosen one, and the same
            for tiles that are drawn by chance, in standard deviations.
    """

    images: int
    pool: int
    chosen: int
    constant: int
    invalid: int
    repeated: int
    classes: Mapping[str, ClassShares]
    descriptors: Mapping[str, DescriptorSpan]
    radius: float
    random_radius: float


class GraphStatistics(Record, frozen=True):
    """What was measured in one graph.

    Attributes:
        ranges: by tensor name.
        means: of every channel that an operator with trained weights reads, by node: its bias can
            be corrected. An operator whose weights were trained with the rounding has none.
    """

    ranges: Mapping[str, Range]
    means: Mapping[str, tuple[float, ...]] = {}


class CalibrationTable(Record, frozen=True):
    """Ranges by tensor of each graph of a bundle, and where they come from.

    Attributes:
        bundle: SHA-256 of the record of the bundle they were measured in.
        method: how a range was chosen from a histogram.
        graphs: what was measured, by the graph's lowering.
        tiles: that were measured.
        bands: over them.
        coverage: how well they stand for their pool.
        appearance: of the pool that the tiles were chosen from; None in tables of before, and where
            all tiles were of one image.
    """

    bundle: str
    method: str
    graphs: Mapping[Lowering, GraphStatistics]
    tiles: tuple[MeasuredTile, ...]
    bands: BandStatistics
    coverage: CoverageRecord
    appearance: Appearance | None = None

    def to_json(self) -> dict[str, Any]:
        """What its file says."""
        return TABLE.dump(self)

    def of(self, lowering: Lowering) -> GraphStatistics:
        """What was measured in one graph of the bundle.

        Raises:
            StaleArtifact: nothing was.
        """
        if lowering in self.graphs:
            return self.graphs[lowering]
        measured = " and ".join(graph.value for graph in self.graphs)
        raise StaleArtifact(
            f"measured in the graph for {measured}, not in the one for {lowering.value}",
            where="TABLE",
            fix=command("segclip-deploy", "calibrate", "BUNDLE", "--tiles", "DIR", "-o", "TABLE"),
        )

    @property
    def digest(self) -> str:
        """What plans and bundles know it by."""
        return TABLE.digest(self)


def _of_schema_4(data: dict[str, Any]) -> dict[str, Any]:
    """Say that it was measured in the graph for CPUs: there was no other."""
    measured = {name: data.pop(name) for name in ("ranges", "means") if name in data}
    return {**data, "graphs": {Lowering.CPU.value: measured}}


TABLE = Format(
    "a calibration table",
    CalibrationTable,
    schema=5,
    migrations={3: dict, 4: _of_schema_4},
    sealed=True,
)


def save_table(path: Path, table: CalibrationTable) -> None:
    """Write a table, atomically."""
    TABLE.write(path, table)


def load_table(path: Path, bundle: Bundle | None = None) -> CalibrationTable:
    """Read a table; with a ``bundle``, one that was measured in it.

    Raises:
        BadArtifact: not a calibration table.
        StaleArtifact: it was edited, or measured in another bundle.
    """
    source = "BUNDLE" if bundle is None else bundle.path
    remedy = command("segclip-deploy", "calibrate", source, "--tiles", "DIR", "-o", path)
    table = TABLE.read(path, fix=remedy)
    if bundle is not None:
        check_table(table, bundle, where=path)
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

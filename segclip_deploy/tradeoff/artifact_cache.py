"""Artefacts of a sweep, each made once and kept under the digest of all it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from segclip_deploy import __version__
from segclip_deploy.artifacts.bundle import RECORD_FILE, Bundle, bundle_sha256, load_bundle
from segclip_deploy.artifacts.engine import Engine, load_engine
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.plan import AccuracyLimits, load_plan
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.calibration.table import load_table
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.evaluation.dataset import Dataset, open_dataset
from segclip_deploy.export.onnx_model import load_model
from segclip_deploy.planning.planner import plan_precision
from segclip_deploy.planning.sensitivity import heat_map
from segclip_deploy.progress import Report
from segclip_deploy.quantization.from_tiles import calibrate_on
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.build_engine import build_engine, with_both_labels
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.open_engine import engine_sha256, open_segmenter
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.device import find_cpu
from segclip_deploy.tradeoff.sweep_grid import Point

__all__ = ["SENSITIVITY_FILE", "ArtifactCache", "digest_of"]

SENSITIVITY_FILE = "sensitivity.png"


def digest_of(*parts: Any) -> str:
    """A name for what is made of ``parts`` (JSON), by this version of the product."""
    text = json.dumps([__version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ArtifactCache:
    """Makes tables, plans, bundles and engines, or takes those that are there.

    Attributes:
        root: where they lie.
        calib: what is calibrated on; None: nothing can be.
        dataset: for evaluation; none of its images is calibrated on.
        report: of progress.
        layout: of the dataset; None: what is there decides.
        mask_suffix: of the dataset's masks.
        reading: how images are read, of both.
        plan_split: the part of the dataset that plans are evaluated on.
    """

    root: Path
    calib: Path | None
    dataset: Path
    report: Report
    layout: str | None = None
    mask_suffix: str = ""
    reading: Reading = field(default_factory=Reading)
    plan_split: str = "plan"

    def open_dataset(self, vocabulary: Vocabulary) -> Dataset:
        """The dataset, its masks read with a vocabulary.

        Raises:
            BadInput: it is none.
        """
        return open_dataset(
            self.dataset,
            vocabulary,
            layout=self.layout,
            mask_suffix=self.mask_suffix,
            reading=self.reading,
        )

    def make_tables(self, points: Iterable[Point]) -> None:
        """Calibrate all that points need: before an engine is built, so that bad tiles cost no hours.

        Raises:
            BadInput: tiles that cannot be used, or no ``calib``.
        """
        for point in points:
            # Of one bundle: its points will fail, and the others be measured.
            with suppress(BadArtifact):
                self._table_path(point)

    def recipe(self, point: Point) -> str:
        """The digest of everything an engine is made of."""
        # An engine is built in the mode that it flies in: kernels are chosen by timing them.
        mode = [point.power_mode] if point.power_mode else []
        return digest_of(self._model_digest(point), point.target, find_cpu().to_json(), *mode)

    def engine_path(self, point: Point) -> Path:
        """Where a point's engine lies, or will."""
        if point.made is not None and point.made.is_file():
            return point.made
        return self.root / "engines" / (self.recipe(point) + TARGETS[point.target].suffix)

    def engine(self, point: Point) -> Engine:
        """A point's engine.

        Raises:
            GateFailed: no plan keeps the budget, or the engine fails verification.
            SegclipError: whatever else calibrating, quantizing and building raise.
        """
        path = self.engine_path(point)
        if path == point.made:
            with open_segmenter(path, preflight=True):  # it was verified where it was built
                return load_engine(path)
        if path.is_file():
            return load_engine(path)
        bundle = self.bundle(point)
        path.parent.mkdir(parents=True, exist_ok=True)
        return build_engine(bundle, path, options=with_both_labels(TARGETS[point.target]))

    def bundle(self, point: Point) -> Bundle:
        """The bundle of a point's engine, in its precision.

        Raises:
            GateFailed: no plan keeps the budget.
            SegclipError: whatever else calibrating and quantizing raise.
        """
        bundle = load_bundle(point.made or point.bundle)
        if point.precision == "fp32" or point.made is not None:
            return bundle
        return self._quantized(point, bundle)

    def _quantized(self, point: Point, bundle: Bundle) -> Bundle:
        scheme = TARGETS[point.target].scheme
        table_path, plan_path = self._table_path(point), self._plan_path(point)
        table = load_table(table_path) if table_path else None
        if plan_path:
            plan = load_plan(plan_path)
        else:
            graph = load_model(bundle.for_scheme(scheme).model_path).graph
            plan = uniform_plan(
                bundle, graph, scheme, "fp16" if point.precision == "fp16" else "int8"
            )
        out = self.root / "bundles" / self._model_digest(point)
        if (out / RECORD_FILE).is_file():
            return load_bundle(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        return quantize(bundle, out, plan=plan, table=table)

    def _table_path(self, point: Point) -> Path | None:
        """The calibration table, made if need be; None where nothing is calibrated."""
        if point.method is None:
            return None
        if self.calib is None:
            raise BadInput("INT8 needs real tiles", where=point.name, fix="--calib DIR")
        key = digest_of(
            self._bundle_digest(point), point.method, self._calib_digest, self.data_digest
        )
        path = self.root / "tables" / f"{key}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            calibrate_on(
                load_bundle(point.bundle),
                [self.calib],
                path,
                method=point.method,
                exclude=self.dataset,
                layout=self.layout,
                reading=self.reading,
                report=self.report,
            )
        return path

    def _plan_path(self, point: Point) -> Path | None:
        """The plan, made if need be; None where nothing is planned."""
        table_path = self._table_path(point)
        if point.budget is None or table_path is None:
            return None
        scheme = TARGETS[point.target].scheme
        folder = (
            self.root
            / "plans"
            / digest_of(table_path.stem, scheme.value, find_cpu().to_json(), self.plan_split)
        )
        path = folder / f"{point.budget:g}.yaml"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            bundle = load_bundle(point.bundle)
            planned = plan_precision(
                bundle,
                load_table(table_path),
                self.open_dataset(bundle.vocabulary),
                path,
                scheme=scheme,
                split=self.plan_split,
                limits=AccuracyLimits(max_miou_drop=point.budget / 100),
                state=folder / "state.json",  # all budgets start from the same measurements
                report=self.report,
            )
            heat_map(planned.effects, folder / SENSITIVITY_FILE, title=point.bundle.name)
        return path

    def _model_digest(self, point: Point) -> str:
        """Of the model in a point's precision."""
        if point.made is not None:
            return digest_of(engine_sha256(point.made))
        parts: list[Any] = [self._bundle_digest(point), point.precision, point.budget]
        if point.precision != "fp32":
            parts.append(TARGETS[point.target].scheme.name)
        if point.method:
            parts += [point.method, self._calib_digest, self.data_digest]
        return digest_of(*parts)

    def _bundle_digest(self, point: Point) -> str:
        return bundle_sha256(point.bundle)

    @cached_property
    def _calib_digest(self) -> str:
        return _files_digest(self.calib) if self.calib else ""

    @cached_property
    def data_digest(self) -> str:
        """Of all files of the dataset, and of how they are read."""
        how = (self.mask_suffix, asdict(self.reading))
        digest = _files_digest(self.dataset)
        return digest if how == ("", asdict(Reading())) else digest_of(digest, *how)


def _files_digest(folder: Path) -> str:
    """Digest of the names and contents of all files below a folder but hidden ones, or of one file."""
    files = [folder]
    if folder.is_dir():
        files = sorted(p for p in folder.rglob("[!.]*") if p.is_file())
    seen = [(str(p.relative_to(folder)), sha256_file(p)) for p in files]
    return digest_of(seen)

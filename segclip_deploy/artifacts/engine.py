"""Engines on disk: the file, its golden tiles, and the record of what it is and was proven to do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segclip_deploy import __version__
from segclip_deploy.artifacts.bundle import Bundle, check_file
from segclip_deploy.artifacts.bundle_record import BUNDLE, BundleRecord
from segclip_deploy.artifacts.files import (
    flush,
    locked,
    read_json,
    replace_file,
    sha256_file,
)
from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.onnx_file import check_self_contained
from segclip_deploy.artifacts.precision_share import Layer, PrecisionShare, precision_shares
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, GateFailed, command

__all__ = [
    "ENGINE",
    "Build",
    "Built",
    "Check",
    "CpuDevice",
    "Engine",
    "EngineRecord",
    "GpuDevice",
    "LabelMaker",
    "Search",
    "TimingCacheUse",
    "Try",
    "Verification",
    "golden_path",
    "load_engine",
    "move_engine",
    "record_path",
    "write_engine",
]


LabelMaker = Literal["graph", "kernel"]
"""What makes labels, and the margin, of the logits: the engine's own graph, or a kernel behind it."""


class CpuDevice(Record, frozen=True, tag_field="kind", tag="cpu"):
    """A processor that an engine was built on.

    Attributes:
        cpu: its model.
        machine: architecture, for example ``"aarch64"``.
        cores: how many the process may use.
        flags: what it can, as far as it matters to inference.
    """

    cpu: str
    machine: str
    cores: int
    flags: tuple[str, ...]


class GpuDevice(Record, frozen=True, tag_field="kind", tag="gpu"):
    """A GPU, or several, that an engine was built for; None where it was built ahead of time.

    Attributes:
        gpu: its name.
        compute_capability: for example ``("8.7",)``.
        driver: version of the kernel driver.
        cuda: the newest CUDA that the driver serves.
        library: name and version, for example ``"TensorRT 10.3.0"``.
        board, l4t, jetpack: of a Jetson.
        multiprocessors: of the GPU.
        power_mode: of a Jetson, in which TensorRT timed its kernels.
    """

    gpu: str | None
    compute_capability: tuple[str, ...]
    driver: str | None
    cuda: str | None
    library: str
    board: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    multiprocessors: int | None = None
    power_mode: str | None = None


class Check(Record, frozen=True):
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str


class Verification(Record, frozen=True):
    """All checks of one engine.

    Attributes:
        engine: the backend that ran.
        checks: in the order they were made.
        flips: pixels whose label differs from FP32's, by that label's class.
    """

    engine: str
    checks: tuple[Check, ...]
    flips: Mapping[str, int]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON, and whether every check passed."""
        return {**super().to_json(), "passed": self.passed}

    def require(self, *, where: object) -> None:
        """Pass, or name the first check that did not.

        Raises:
            GateFailed: a check failed.
        """
        for check in self.checks:
            if not check.passed:
                raise GateFailed(
                    f"verification failed at {check.name}: {check.detail}", where=where
                )


class Search(Record, frozen=True):
    """How the fastest settings were found.

    Attributes:
        median_ms: milliseconds an inference, by settings.
        warm_up, rounds: inferences that did not count, and that did.
        cores: that the process may use.
        load: processes that wanted the processor in the minute before; None where it is not told.
    """

    median_ms: Mapping[str, float]
    warm_up: int
    rounds: int
    cores: int
    load: float | None


class TimingCacheUse(Record, frozen=True):
    """What a TensorRT build knew beforehand; None where the version does not tell.

    Attributes:
        path: the cache's file.
        known, new: measurements.
    """

    path: str
    known: int | None
    new: int | None


class Try(Record, frozen=True):
    """One of several builds of the same plan.

    Attributes:
        median_ms: milliseconds an inference.
        rounds: inferences timed.
        passed: whether verification did.
        labels: what makes them.
    """

    median_ms: float
    rounds: int
    passed: bool
    labels: LabelMaker = "graph"


class Build(Record, frozen=True):
    """How an engine was made.

    Attributes:
        seconds: it took.
        search: for settings; None where nothing was chosen.
        timing_cache: None without one.
        tries: where the engine is a TensorRT plan that ran here.
        fixed_sha256: of the model without the weights that a refit replaces; None where none can be.
    """

    seconds: float
    search: Search | None = None
    timing_cache: TimingCacheUse | None = None
    tries: tuple[Try, ...] = ()
    fixed_sha256: str | None = None


class Built(Record, frozen=True):
    """What a target tells of an engine that it has made.

    Attributes:
        device: that it was made on or for.
        settings: of its backend, by keyword.
        build: how it was made.
        network: layers that the bundle asks for, by block and element type.
        layers: that the engine has; None where it was not looked into.
        blocks: those, by block and element type.
        verified: the result of verification; None where it cannot run here.
        not_verified: why it cannot.
        labels: what makes them.
    """

    device: CpuDevice | GpuDevice
    settings: Mapping[str, int | str | bool]
    build: Build
    network: Mapping[str, Mapping[str, int]] | None = None
    layers: tuple[Layer, ...] | None = None
    blocks: Mapping[str, Mapping[str, int]] | None = None
    verified: Verification | None = None
    not_verified: str | None = None
    labels: LabelMaker = "graph"


class EngineRecord(Record, frozen=True):
    """The record beside an engine file.

    Attributes:
        segclip_deploy: version that wrote it.
        target: what runs it, by name.
        engine_sha256, golden_sha256, bundle_sha256: of the engine file, its golden tiles, and the
            record of the bundle it was made of.
        bundle_path: where that bundle lay.
        bytes: of the engine file.
        arguments: of ``build-engine``, beside bundle and output.
        built: what its target told.
        bundle: the record of the bundle.
        precision_shares: what of its plan is known to run as planned; None where the bundle or the
            engine does not tell.
    """

    segclip_deploy: str
    target: str
    engine_sha256: str
    golden_sha256: str
    bundle_sha256: str
    bundle_path: str
    bytes: int
    arguments: tuple[str, ...]
    built: Built
    bundle: BundleRecord
    precision_shares: tuple[PrecisionShare, ...] | None = None


def _of_schema_4(data: dict[str, Any]) -> dict[str, Any]:
    """Bring the bundle's record, which was one of schema 2, to schema 3."""
    return {**data, "bundle": BUNDLE.migrations[2](data["bundle"])}


def _of_schema_5(data: dict[str, Any]) -> dict[str, Any]:
    """Bring the bundle's record, which was one of schema 3, to schema 4."""
    return {**data, "bundle": BUNDLE.migrations[3](data["bundle"])}


def _of_schema_6(data: dict[str, Any]) -> dict[str, Any]:
    """Bring the bundle's record, which was one of schema 4, to schema 5."""
    return {**data, "bundle": BUNDLE.migrations[4](data["bundle"])}


# Schema 3 does not tell multiprocessors: an engine for a GPU that is here is refused for that, and
# the others open. Until schema 6 every graph made its labels itself.
ENGINE = Format(
    "an engine record",
    EngineRecord,
    schema=7,
    migrations={3: dict, 4: _of_schema_4, 5: _of_schema_5, 6: _of_schema_6},
)


@dataclass(frozen=True)
class Engine:
    """An engine file and what its record says.

    Attributes:
        path: the file.
        record: beside it.
    """

    path: Path
    record: EngineRecord

    def to_json(self) -> dict[str, Any]:
        """What the record says."""
        return ENGINE.dump(self.record)

    @property
    def input(self) -> InputSpec:
        """Of the graph."""
        return self.record.bundle.input

    @property
    def vocabulary(self) -> Vocabulary:
        """Classes and palette."""
        return self.record.bundle.vocabulary

    def rebuild_command(self, bundle: Path | None = None) -> str:
        """The command that builds it anew; of another bundle, if one is given."""
        source = self.record.bundle_path if bundle is None else str(bundle)
        return _rebuild_command(source, self.path, self.record.arguments)


def load_engine(path: str | Path) -> Engine:
    """Read an engine's record and check that its files are those the record speaks of.

    Raises:
        BadArtifact: no record, or not a valid one; or a model with parts in other files.
        StaleArtifact: a file was changed after it was built.

    Examples:
        >>> from segclip_deploy import load_engine
        >>> engine = load_engine("dubai.ort.onnx")
        >>> engine.record.target, engine.input.sides
        ('onnxruntime', '(1, 512, 512, 3)')
        >>> print(engine.rebuild_command(Path("dubai")))
        segclip-deploy build-engine dubai -o dubai.ort.onnx
    """
    path = Path(path)
    remedy = _rebuild_command("BUNDLE", path, ())
    if not path.is_file() or not record_path(path).is_file():
        raise BadArtifact(
            f"not an engine (a file with {record_path(path).name} beside it)",
            where=path,
            fix=remedy,
        )
    data = read_json(record_path(path))
    remedy = _rebuild_command(*_told(data, path))
    record = ENGINE.parse(data, where=record_path(path), fix=remedy)
    check_file(path, record.engine_sha256, record_path(path), fix=remedy)
    check_file(golden_path(path), record.golden_sha256, record_path(path), fix=remedy)
    if path.suffix == ".onnx":
        check_self_contained(path)
    return Engine(path, record)


def write_engine(
    out: Path, file: Path, bundle: Bundle, *, target: str, arguments: tuple[str, ...], built: Built
) -> None:
    """Put an engine in its place, with its golden tiles and its record.

    Two processes may build the same engine: each puts all three there, one after the other.

    Args:
        out: the engine's place.
        file: the engine, in the same directory; it is moved.
        bundle: what it was made of.
        target, arguments, built: as in ``EngineRecord``.
    """
    record = EngineRecord(
        segclip_deploy=__version__,
        target=target,
        engine_sha256=sha256_file(file),
        golden_sha256=bundle.files[bundle.golden_path.name],
        bundle_sha256=bundle.sha256,
        bundle_path=str(bundle.path),
        bytes=file.stat().st_size,
        arguments=arguments,
        built=built,
        bundle=bundle.record,
        precision_shares=precision_shares(bundle.record, built.layers),
    )
    with (
        locked(out),
        replace_file(out) as engine,
        replace_file(record_path(out)) as written,
        replace_file(golden_path(out)) as tiles,
    ):
        file.replace(engine)
        shutil.copyfile(bundle.golden_path, tiles)
        for path in (engine, tiles):
            flush(path)
        ENGINE.write(written, record)


def move_engine(engine: Engine, to: Path) -> None:
    """Rename an engine and what lies beside it, over another of the same target; its record last."""
    for place in (golden_path, Path, record_path):
        place(engine.path).replace(place(to))


def record_path(path: Path) -> Path:
    """Where an engine's record lies."""
    return path.with_name(path.name + ".json")


def golden_path(path: Path) -> Path:
    """Where an engine's golden tiles lie."""
    return path.with_name(path.name + ".golden.npz")


def _told(data: Mapping[str, Any], path: Path) -> tuple[str, Path, tuple[str, ...]]:
    """What a record of any schema, or a damaged one, tells of how its engine was built."""
    bundle, arguments = data.get("bundle_path"), data.get("arguments")
    return (
        bundle if isinstance(bundle, str) else "BUNDLE",
        path,
        tuple(map(str, arguments)) if isinstance(arguments, list) else (),
    )


def _rebuild_command(bundle: str, path: Path, arguments: tuple[str, ...]) -> str:
    return command("segclip-deploy", "build-engine", bundle, "-o", path, *arguments)

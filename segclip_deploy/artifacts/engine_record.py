"""What is known of an engine: the device, how it was built, its checks; the JSON beside its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from segclip_deploy.artifacts.bundle_record import BUNDLE, BundleRecord
from segclip_deploy.artifacts.precision_share import Layer, PrecisionShare
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.errors import GateFailed

__all__ = [
    "ENGINE",
    "Build",
    "Built",
    "Check",
    "CpuDevice",
    "EngineRecord",
    "GpuDevice",
    "LabelMaker",
    "Search",
    "TimingCacheUse",
    "Try",
    "Verification",
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

"""What ``benchmark`` is asked for, checked before hours are spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import RECORD_FILE, InputSpec, load_bundle
from segclip_deploy.artifacts.files import refuse_foreign, sha256_file
from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.progress import Report, saying
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.profiling.mode_switch import choose_power_modes
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.device import PowerMode, list_power_modes
from segclip_deploy.tradeoff.artifact_cache import ArtifactCache
from segclip_deploy.tradeoff.board_folder import (
    MANIFEST_FILE,
    BoardFolder,
    check_replaceable,
    load_manifest,
)
from segclip_deploy.tradeoff.made import Given, PrecisionChoice, sort_given
from segclip_deploy.tradeoff.mission import Mission, sensor
from segclip_deploy.tradeoff.recommend import FlightLimits
from segclip_deploy.tradeoff.roofline import find_boards
from segclip_deploy.tradeoff.row import FailedPoint
from segclip_deploy.tradeoff.sweep import Steps
from segclip_deploy.tradeoff.sweep_grid import SweepGrid, targets_here
from segclip_deploy.tradeoff.sweep_modes import count_steps_in_modes, grids_of_modes
from segclip_deploy.tradeoff.timed_frames import say_what_fits, timed_frames

__all__ = ["Prepared", "Request", "prepare_sweep"]


@dataclass(frozen=True)
class Request:
    """What ``benchmark`` was asked for; the fields are its options (docs/how-to/benchmark.md)."""

    artefacts: Sequence[Path]
    dataset: Path | None
    out: Path
    prepare: bool = False
    split: str | None = None
    layout: str | None = None
    mask_suffix: str = ""
    reading: Reading = field(default_factory=Reading)
    calib: Path | None = None
    targets: Sequence[str] = ()
    precisions: Sequence[PrecisionChoice] | None = None
    budgets: Sequence[float] = (0.3,)
    methods: Sequence[str] = ("percentile",)
    overlaps: Sequence[int] = ()
    threads: Sequence[int] = ()
    samples: int = 200
    frames: Path | None = None
    limits: FlightLimits = field(default_factory=FlightLimits)
    boards: str | None = None
    altitude: float | None = None
    speed: float | None = None
    camera: str | None = None
    front_overlap: float = 0.7
    side_overlap: float = 0.7
    power_modes: Sequence[str] = ()
    power_command: str | None = None
    ambient: float | None = None

    def mission(self) -> Mission | None:
        """The flight that is asked for; None: none is.

        Raises:
            UsageError: half of one.
        """
        altitude, speed, camera = self.altitude, self.speed, self.camera
        if altitude is None or speed is None or camera is None:
            if (altitude, speed, camera) != (None, None, None):
                raise UsageError("a mission needs --altitude, --speed and --sensor")
            return None
        overlaps = self.front_overlap, self.side_overlap
        return Mission(sensor(camera), altitude, speed, *overlaps)


@dataclass(frozen=True)
class Prepared:
    """A request that was found sound.

    Attributes:
        request: what was asked for.
        given: its artefacts, sorted.
        grid: what varies.
        cache: makes the artefacts.
        split: the part of the dataset that reports accuracy.
        plan_split: the part that planned mixes are chosen on; None where nothing is planned.
        frames: that latency is measured on; none where a folder is prepared.
        modes: power modes that the grid is measured in; none: the one that is found.
        failures: of the workstation that prepared the folder: variants that are not in it.
    """

    request: Request
    given: Given
    grid: SweepGrid
    cache: ArtifactCache
    split: str
    plan_split: str | None
    frames: tuple[Frame, ...]
    modes: tuple[PowerMode, ...]
    failures: tuple[FailedPoint, ...] = ()

    @property
    def grids(self) -> tuple[SweepGrid, ...]:
        """The grid in each of its power modes."""
        return grids_of_modes(self.grid, self.modes)

    def steps(self) -> Steps:
        """How many engines are there, how many are to be made, and how many samples to be taken."""
        return count_steps_in_modes(self.grids, self.cache, self.request.samples)


def prepare_sweep(request: Request, report: Report) -> Prepared:
    """Check everything that can be checked before hours are spent.

    Raises:
        BadArtifact: an artefact that is none.
        GateFailed: a checkpoint's export is not the model in PyTorch.
        BadInput: a dataset, split, class, board, sensor or frame that is none; ``out`` holds something else.
        UsageError: options that do not go together.
    """
    folder = _board_folder(request, report)
    if folder is not None:
        request = replace(
            request,
            artefacts=folder.bundles,
            dataset=folder.dataset,
            split=folder.manifest.split,
            reading=folder.manifest.reading,
        )
    dataset, work, modes = _check_request(request)
    given = sort_given([_exported(path, work, report) for path in request.artefacts])
    if request.prepare and any(made.target for made in given.made):
        engine = next(made.path for made in given.made if made.target)
        raise UsageError(f"{engine} is an engine; the board builds its own: give its bundle")
    precisions = _precisions(request, given)
    given.vocabulary.check_names(request.limits.class_iou, where="--min-class-iou")
    data = open_dataset(dataset, given.vocabulary, layout=request.layout)
    split = data.choose_split(request.split, "val")
    plans = data.choose_split(None, "plan") if "planned" in precisions else None
    if plans == split:
        saying(report)(
            f"{dataset}: no split plan, so {split} chooses planned mixes and scores them; "
            "their accuracy will look better than it is"
        )
    grid = _grid(request, given, precisions)
    cache = ArtifactCache(
        work,
        request.calib,
        dataset,
        report,
        request.layout,
        request.mask_suffix,
        request.reading,
        plans or "plan",
    )
    frames: tuple[Frame, ...] = ()
    if not request.prepare:
        images = cache.open_dataset(given.vocabulary)
        frames = timed_frames(request.frames, request.reading, images, split)
        say_what_fits(given, frames, report)
    if folder is None:
        return Prepared(request, given, grid, cache, split, plans, frames, modes)
    manifest = folder.manifest
    return Prepared(
        request, given, grid, cache, split, manifest.plan_split, frames, modes, manifest.failures
    )


def _check_request(request: Request) -> tuple[Path, Path, tuple[PowerMode, ...]]:
    """Check what needs no artefact: the dataset, the folder that keeps what is made, the power modes."""
    if request.dataset is None:
        raise UsageError("takes --eval DATASET, or a folder that benchmark --prepare has written")
    if request.prepare and request.frames is not None:
        raise UsageError("--frames are timed on the board; give them there")
    request.mission()
    if request.boards:
        find_boards(request.boards)
        require("onnx", why="lower bounds")
    return request.dataset, _work_folder(request), _power_modes(request)


def _work_folder(request: Request) -> Path:
    """Where what is made is kept: in the folder of the report, or beside that for a board."""
    out, work = request.out, request.out / "work"
    if request.prepare:
        check_replaceable(out)
        return out.with_name(out.name + ".work")
    refuse_foreign(out, ours=work.is_dir())
    return work


def _grid(request: Request, given: Given, precisions: tuple[PrecisionChoice, ...]) -> SweepGrid:
    """What varies: what was asked for, or all that can be measured here."""
    return SweepGrid(
        bundles=given.bundles,
        targets=tuple(request.targets) or tuple(TARGETS if request.prepare else targets_here()),
        precisions=precisions,
        budgets=tuple(request.budgets),
        methods=tuple(request.methods),
        overlaps=tuple(request.overlaps) or (None,),
        threads=tuple(request.threads) or (0,),
        made=given.made,
    )


def _power_modes(request: Request) -> tuple[PowerMode, ...]:
    """The modes that are asked for; none: the one that is found."""
    if request.power_command is not None and not request.power_modes:
        raise UsageError("--power-command switches nothing without --power-modes")
    if request.prepare and request.power_modes:
        raise UsageError("--power-modes is for the board: give it there, with the folder")
    if not request.power_modes:
        return ()
    return choose_power_modes(request.power_modes, list_power_modes())


def _exported(path: Path, work: Path, report: Report) -> Path:
    """The bundle of a checkpoint, at 512 × 512; any other artefact as it is."""
    if path.suffix != ".safetensors":
        return path
    out = work / "exported" / path.stem
    if (out / RECORD_FILE).is_file():
        bundle = load_bundle(out)
        if bundle.record.parents.checkpoint == sha256_file(path):
            return out
    require("torch", why="export")
    from segclip_deploy.export.export import export_bundle

    saying(report)(f"exporting {path} at 512x512; for another size export it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    return export_bundle(path, out, spec=InputSpec(height=512, width=512)).path


def _board_folder(request: Request, report: Report) -> BoardFolder | None:
    """The folder for a board, if that is what was given."""
    if len(request.artefacts) != 1 or not (request.artefacts[0] / MANIFEST_FILE).is_file():
        return None
    own = {
        "--eval": request.dataset,
        "--calib": request.calib,
        "--split": request.split,
        "--precision": request.precisions,
        "--layout": request.layout,
        "--mask-suffix": request.mask_suffix or None,
        "--bands, --scale and the like": None if request.reading == Reading() else request.reading,
    }
    for option, value in own.items():
        if value is not None:
            raise UsageError(f"{request.artefacts[0]} was prepared, and brings that", where=option)
    return load_manifest(request.artefacts[0], report)


def _precisions(request: Request, given: Given) -> tuple[PrecisionChoice, ...]:
    """What is made of FP32 bundles: where anything is given as made already, nothing but FP32."""
    usual: tuple[PrecisionChoice, ...] = ("fp32", "fp16", "int8", "planned")
    asked = request.precisions or (usual[:1] if given.made else usual)
    if given.bundles and request.calib is None and set(asked) & {"int8", "planned"}:
        raise BadInput(
            "INT8 needs real tiles",
            where="--precision",
            fix="--calib DIR, or --precision fp32 --precision fp16",
        )
    return tuple(asked)

"""``compact``: prune a checkpoint's encoder and distil it, in rounds, until it is as fast as was asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.checkpoint_record import Compaction, TrainSettings
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.latency_table import LATENCY_TABLE, LatencyTable
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.artifacts.records import replace as with_fields
from segclip_deploy.errors import BadInput, StaleArtifact, command
from segclip_deploy.evaluation.accuracy import score
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.export.graph import normalise
from segclip_deploy.export.torch_backend import torch_segmenter
from segclip_deploy.model.checkpoint import (
    Checkpoint,
    build_model,
    load_checkpoint,
    save_checkpoint,
)
from segclip_deploy.model.compute import repeatable
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.progress import Report, saying, silent, stage
from segclip_deploy.runtime.profiling.time_probes import probe_target, time_probes
from segclip_deploy.runtime.registry import find_target
from segclip_deploy.training.augment import Crops
from segclip_deploy.training.choose_channels import choose_channels
from segclip_deploy.training.compact_goal import CompactionGoal
from segclip_deploy.training.crop_loader import Loading, open_batches
from segclip_deploy.training.distill import Distiller, label_tiles, with_tiles
from segclip_deploy.training.image_cache import ImageCache
from segclip_deploy.training.importance import channel_importance
from segclip_deploy.training.loop import Progress
from segclip_deploy.training.probe_networks import write_probes
from segclip_deploy.training.prunable import find_inner_channels, prune
from segclip_deploy.training.stopwatch import Stopwatch, Timing

__all__ = ["Compacted", "Material", "Round", "compact", "rounds_folder"]

_STEP = 1.15  # speed-up of one round, where the loss of accuracy decides how many there are
_MOST_ROUNDS = 12
_FITS = 5  # attempts at a time, each of which is measured
_CLOSE = 1.02  # a time within 2 % of what was asked for is noise
_BATCHES = 8  # of crops that importance is read off


class Round(Record, frozen=True):
    """A round of pruning and distillation.

    Attributes:
        timing: of the pruned network.
        miou: of the tuned one on split ``plan``, 0–1; None before it was tuned.
    """

    timing: Timing
    miou: float | None = None


class _State(Record, frozen=True):
    """What a run has done so far.

    Attributes:
        identity: SHA-256 of what the run was asked for.
        parent_miou: on split ``plan``, 0–1.
        rounds: that were pruned; the last may not be tuned yet.
    """

    identity: str
    parent_miou: float
    rounds: tuple[Round, ...] = ()


_STATE = Format("a run of compact", _State, schema=1)


@dataclass(frozen=True)
class Material:
    """What a pruned network learns from.

    Attributes:
        dataset: with masks, and splits ``train`` and ``plan``; None: the tiles alone.
        tiles: unlabelled images and folders.
        loading: how they are read.
    """

    dataset: Dataset | None
    tiles: tuple[Path, ...] = ()
    loading: Loading | None = None


@dataclass(frozen=True)
class Compacted:
    """What ``compact`` made.

    Attributes:
        path: the checkpoint.
        compaction: as its record has it.
        miou: on split ``plan``, 0–1.
        rounds: all of them; the checkpoint is of the last that keeps what was asked for.
    """

    path: Path
    compaction: Compaction
    miou: float
    rounds: tuple[Round, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "path": str(self.path),
            "compaction": self.compaction.to_json(),
            "miou": self.miou,
            "rounds": [done.to_json() for done in self.rounds],
        }


def rounds_folder(out: Path) -> Path:
    """Where a run keeps what it goes on from: removed when the checkpoint is written."""
    return out.with_name(out.name + ".rounds")


def compact(
    source: Path,
    out: Path,
    material: Material,
    goal: CompactionGoal,
    settings: TrainSettings,
    *,
    spec: InputSpec,
    target: str | None = None,
    latency: LatencyTable | None = None,
    rounds: int = 2,
    report: Report = silent,
    told: Callable[[Progress], None] = lambda _: None,
) -> Compacted:
    """Make a smaller checkpoint of one, as fast as was asked for, or as accurate.

    Each round prunes what the table says is slow and the tiles say is unimportant, and then lets
    the network learn from its parent. A killed run goes on when it is called again.

    Args:
        source: the checkpoint; it teaches all rounds.
        out: the checkpoint to write.
        material: images.
        goal: what to reach.
        settings: of the distillation of one round.
        spec: the input size that is timed.
        target: that times networks here; None: the first that can.
        latency: a table of this checkpoint, from here or from another machine; None: it is measured here.
        rounds: where the goal is a time.
        report: told how far it is.
        told: called after each step of a distillation.

    Raises:
        BadArtifact: the checkpoint or the table cannot be used.
        BadInput: the goal cannot be reached: the nearest that can is named. The dataset lacks a split, or
            ``out`` exists.
        MissingDependency: torch-pruning, or what times networks, is not installed.
        StaleArtifact: a run of other settings was stopped there, or the table is another checkpoint's.
    """
    if out.exists():
        raise BadInput("exists already", where=out, fix="choose another -o, or remove it")
    run = _Run.begin(source, out, material, goal, settings, spec, target, latency, rounds, report)
    while not run.finished():
        run.prune_next()
        run.tune(told)
    return run.hand_over()


class _Run:
    """A run of ``compact``, in a folder that it goes on from."""

    def __init__(
        self,
        source: Path,
        out: Path,
        material: Material,
        goal: CompactionGoal,
        settings: TrainSettings,
        spec: InputSpec,
        rounds: int,
        report: Report,
        table: LatencyTable,
        dataset: Dataset,
        state: _State,
    ) -> None:
        self.out, self.folder = out, rounds_folder(out)
        self.source, self.material, self.goal = source, material, goal
        self.settings, self.spec, self.total, self.report = settings, spec, rounds, report
        self.dataset, self.state = dataset, state
        self.checkpoint = load_checkpoint(source)
        self.teacher = build_model(self.checkpoint)
        self.multiple = find_target(
            table.target, where="--latency", fix="segclip-deploy profile PROBES -o DIR"
        ).scheme.rules.channels
        self.watch = Stopwatch(
            build_model(self.checkpoint), self.checkpoint.bank, spec, table, self.folder
        )

    @classmethod
    def begin(
        cls,
        source: Path,
        out: Path,
        material: Material,
        goal: CompactionGoal,
        settings: TrainSettings,
        spec: InputSpec,
        target: str | None,
        latency: LatencyTable | None,
        rounds: int,
        report: Report,
    ) -> _Run:
        """A new run, or one that was stopped."""
        folder, sha256 = rounds_folder(out), sha256_file(source)
        if latency is not None:
            _check_table(latency, source, sha256, spec)
        asked = {
            "parent": sha256,
            "goal": goal.to_json(),
            "settings": settings.to_json(),
            "window": [spec.height, spec.width],
            "rounds": rounds,
            "target": target,
            "latency": latency and LATENCY_TABLE.digest(latency),
            "dataset": str(material.dataset and material.dataset.root),
            "tiles": [str(tile) for tile in material.tiles],
        }
        identity = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        state = _resumed(folder, identity, out)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = load_checkpoint(source)
        teacher = build_model(checkpoint)
        dataset = _learned_from(material, checkpoint, teacher, settings, folder, report)
        table = latency or _measured(checkpoint, teacher, spec, target, sha256, folder, report)
        if state is None:
            state = _State(
                identity=identity,
                parent_miou=_plan_miou(teacher, checkpoint, dataset, settings),
            )
        run = cls(
            source, out, material, goal, settings, spec, rounds, report, table, dataset, state
        )
        if not state.rounds:
            run.refuse_the_impossible()
        run.keep(state)
        return run

    # ---- what was asked for

    def finished(self) -> bool:
        """Whether no round is left: the time is reached, or the accuracy is spent."""
        done = self.state.rounds
        if not done or done[-1].miou is None:
            return False
        if self.goal.max_miou_drop is None:
            return len(done) == self.total
        return not self.holds(done[-1]) or len(done) == _MOST_ROUNDS or self.wanted(1.0) >= 1

    def holds(self, done: Round) -> bool:
        """Whether a tuned round keeps the accuracy that was asked for."""
        drop = self.goal.max_miou_drop
        assert done.miou is not None  # by the caller
        return drop is None or 100 * (self.state.parent_miou - done.miou) <= drop

    def wanted(self, parent_ms: float) -> float:
        """The network's time by its parent's that the next round is to reach; 1 where none is left."""
        number = len(self.state.rounds) + 1
        if self.goal.max_miou_drop is None:
            return self.goal.ratio(parent_ms, number / self.total)
        return max(_STEP**-number, self.least) if self.least < _STEP ** -(number - 1) else 1.0

    @property
    def least(self) -> float:
        """The least ratio that the table says can be reached."""
        places = [
            replace(place, count=max(place.widths(self.multiple)[-1], self._floor(place.name)))
            for place in self.watch.places
        ]
        return self.watch.estimate(places).ratio

    def _floor(self, name: str) -> int:
        table = self.watch.table
        return table.least(name) if name in table.layers else 0

    def refuse_the_impossible(self) -> None:
        """Prune all that can be, measure that, and refuse a time that lies below it.

        Raises:
            BadInput: it does, or the parent is as fast already.
        """
        if self.goal.max_miou_drop is not None:
            return
        parent_ms = self.watch.table.network_ms
        if self.goal.ratio(parent_ms, 1.0) >= 1:
            raise BadInput(
                f"{self.source} takes {parent_ms:.1f} ms already in {self.watch.table.engine}",
                where=self.goal.option,
            )
        saying(self.report)("measuring the smallest network that can be pruned")
        smallest = prune(
            self.teacher,
            {p.name: range(p.widths(self.multiple)[-1]) for p in self.watch.places},
        )
        timing = self.watch.time(smallest)
        if timing.ratio > _CLOSE * self.goal.ratio(timing.parent_ms, 1.0):
            raise self._too_fast(timing)

    def _too_fast(self, timing: Timing) -> BadInput:
        how = "takes" if timing.measured else "would take, by the table,"
        nearest = (
            f"--max-latency-ms {timing.ms:.3g}"
            if self.goal.max_latency_ms is not None
            else f"--speed-up {1 / timing.ratio:.2f}"
        )
        return BadInput(
            f"the smallest network that pruning makes {how} {timing.ms:.1f} ms, "
            f"its parent {timing.parent_ms:.1f} ms",
            where=self.goal.option,
            fix=f"the nearest that is possible is {nearest}",
        )

    # ---- the rounds

    def prune_next(self) -> None:
        """Prune the network of the last round, unless that was done before it was stopped."""
        if self.state.rounds and self.state.rounds[-1].miou is None:
            return
        number = len(self.state.rounds) + 1
        before = self._tuned(number - 1) if number > 1 else self.source
        checkpoint = load_checkpoint(before)
        model = build_model(checkpoint)
        pruned, timing = self._fit(model)
        small = replace(
            checkpoint, spec=pruned.spec, weights=pruned.state_dict(), training=None, imported=None
        )
        save_checkpoint(self._pruned(number), small)
        saying(self.report)(
            f"round {number}: pruned to {timing.ms:.1f} ms, its parent {timing.parent_ms:.1f} ms"
            + ("" if timing.measured else " (by the table, not measured)")
        )
        self.keep(with_fields(self.state, rounds=(*self.state.rounds, Round(timing=timing))))

    def _fit(self, model: SegCLIP) -> tuple[SegCLIP, Timing]:
        """Prune until the measured time is what this round is to reach.

        Raises:
            BadInput: pruning ends before that.
        """
        watch, table = self.watch, self.watch.table
        places = find_inner_channels(model, self.spec.height, self.spec.width)
        stage(self.report, "looking at what matters")(0, 1)
        importance = channel_importance(model, self.checkpoint.bank, places, self._batches())
        now = self.state.rounds[-1].timing.ratio if self.state.rounds else 1.0
        saving = (now - self.wanted(table.network_ms)) * table.network_ms
        for _ in range(_FITS):
            choice = choose_channels(
                places, importance, table, saving_ms=saving, multiple=self.multiple
            )
            pruned = prune(model, choice.kept)
            timing = watch.time(pruned)
            wanted = self.wanted(timing.parent_ms)
            if timing.ratio <= _CLOSE * wanted:
                return pruned, timing
            if not choice.reached:
                break
            # The table adds up layers; what a network saves is less. Ask for more, as much as that says.
            saving *= min(2.0, 1.05 * (now - wanted) / max(now - timing.ratio, 1e-6))
        if self.goal.max_miou_drop is not None:
            return pruned, timing  # any step will do: accuracy decides
        raise self._too_fast(timing)

    def _batches(self) -> Any:
        """Crops and their labels; of an unlabelled image, what the parent says."""
        settings, device = self.settings, self.settings.device
        loading = self.material.loading or Loading()
        images = ImageCache(self.dataset, "train", loading.cache_bytes)
        crops = Crops(images, settings.crop, settings.seed, settings.zoom)
        spec = self.checkpoint.spec
        bank = self.checkpoint.bank
        teacher = self.teacher.to(device)
        texts = torch.from_numpy(bank.classes).to(device), torch.from_numpy(bank.texts).to(device)
        with open_batches(crops, 0, batch=settings.batch, batches=1, loading=Loading(0)) as batches:
            for _ in range(_BATCHES):
                pixels, _ = next(batches)
                image = normalise(torch.from_numpy(pixels).to(device), spec.mean, spec.std)
                with torch.no_grad():
                    logits = teacher(image, *texts)
                labels = logits.argmax(1).repeat_interleave(4, 1).repeat_interleave(4, 2)
                yield image, labels

    def tune(self, told: Callable[[Progress], None]) -> None:
        """Distil the pruned network of the last round."""
        number = len(self.state.rounds)
        path = self._tuned(number)
        if not path.with_name(path.name + ".resume").exists():
            path.unlink(missing_ok=True)  # killed between the first validation and resume point
        pruned = load_checkpoint(self._pruned(number))
        torch.manual_seed(self.settings.seed)
        Distiller(
            build_model(pruned),
            build_model(self.checkpoint),
            self.checkpoint,
            self.dataset,
            self.settings,
            path,
            labelled=self.material.dataset is not None,
            loading=self.material.loading,
            reading=self.report,
        ).run(told)
        training = load_checkpoint(path).training
        assert training is not None  # it was trained just now
        last = with_fields(self.state.rounds[-1], miou=training.plan.miou)
        saying(self.report)(
            f"round {number}: plan mIoU {last.miou:.4f}, its parent {self.state.parent_miou:.4f}"
        )
        self.keep(with_fields(self.state, rounds=(*self.state.rounds[:-1], last)))

    # ---- files

    def keep(self, state: _State) -> None:
        """Write down what is done."""
        self.state = state
        _STATE.write(self.folder / "state.json", state)

    def _pruned(self, number: int) -> Path:
        return self.folder / f"round{number}.pruned.safetensors"

    def _tuned(self, number: int) -> Path:
        return self.folder / f"round{number}.safetensors"

    def hand_over(self) -> Compacted:
        """Write the checkpoint of the last round that holds, and remove the folder.

        Raises:
            BadInput: not even the first one holds.
        """
        import shutil

        done = self.state.rounds
        held = [number for number, one in enumerate(done, 1) if self.holds(one)]
        if not held:
            first = done[0]
            assert first.miou is not None  # it was tuned
            drop = 100 * (self.state.parent_miou - first.miou)
            raise BadInput(
                f"a speed-up of {1 / first.timing.ratio:.2f} costs {drop:.2f} points already",
                where=self.goal.option,
                fix=f"the nearest that was reached is --max-miou-drop {drop + 0.005:.2f}; or train for "
                f"longer, after {command('rm', '-r', self.folder)}",
            )
        best = done[held[-1] - 1]
        assert best.miou is not None  # it holds
        labelled = self.material.dataset is not None
        compaction = Compaction(
            parent=sha256_file(self.source),
            engine=self.watch.table.engine,
            window=(self.spec.height, self.spec.width),
            parent_ms=best.timing.parent_ms,
            ms=best.timing.ms,
            measured=best.timing.measured,
            multiple=self.multiple,
            rounds=held[-1],
            parent_miou=self.state.parent_miou if labelled else None,
            labels="dataset" if labelled else "parent",
        )
        tuned = load_checkpoint(self._tuned(held[-1]))
        save_checkpoint(self.out, replace(tuned, compaction=compaction))
        shutil.rmtree(self.folder)
        return Compacted(self.out, compaction, best.miou, done)


def _resumed(folder: Path, identity: str, out: Path) -> _State | None:
    """What a stopped run has done; None where there was none."""
    if not (folder / "state.json").exists():
        return None
    anew = command("rm", "-r", folder)
    state = _STATE.read(folder / "state.json", fix=f"begin anew: {anew}")
    if state.identity != identity:
        raise StaleArtifact(
            f"belongs to a run of compact with other options, which was to write {out}",
            where=folder,
            fix=f"repeat the same command to resume it, or begin anew: {anew}",
        )
    return state


def _check_table(latency: LatencyTable, source: Path, sha256: str, spec: InputSpec) -> None:
    probes = command("segclip-deploy", "compact", source, "--probes", "DIR")
    fix = f"{probes}, then segclip-deploy profile DIR -o FOLDER where it flies"
    if latency.checkpoint != sha256:
        raise StaleArtifact(f"is of another checkpoint than {source}", where="--latency", fix=fix)
    if latency.window != (spec.height, spec.width):
        raise StaleArtifact(
            f"was measured at {'x'.join(map(str, latency.window))}, not at {spec.sides}",
            where="--latency",
            fix=fix,
        )


def _learned_from(
    material: Material,
    checkpoint: Checkpoint,
    teacher: SegCLIP,
    settings: TrainSettings,
    folder: Path,
    report: Report,
) -> Dataset:
    """The images of a run: labelled ones with others besides, or those that the parent labels."""
    dataset = material.dataset
    if dataset is None:
        if not material.tiles:
            raise BadInput("give images to learn from: --dataset, --tiles, or both")
        teacher = teacher.to(settings.device)
        with repeatable(settings.device):
            return label_tiles(
                teacher,
                checkpoint,
                material.tiles,
                folder / "tiles",
                window=settings.window,
                report=report,
            )
    for split in ("train", "plan"):
        if not dataset.names(split):
            raise BadInput(f"split {split!r} is empty", where=dataset.root)
    return with_tiles(dataset, material.tiles)


def _measured(
    checkpoint: Checkpoint,
    model: SegCLIP,
    spec: InputSpec,
    target: str | None,
    sha256: str,
    folder: Path,
    report: Report,
) -> LatencyTable:
    """The latency table of a checkpoint on this machine, measured once in a run."""
    path, timer = folder / "latency.json", probe_target(target)
    if path.exists():
        return LATENCY_TABLE.read(path, fix=command("rm", "-r", folder))
    places = find_inner_channels(model, spec.height, spec.width)
    multiple = timer.scheme.rules.channels
    report("writing probes", 0, 0)
    probes = folder / "probes"
    write_probes(
        model.to("cpu"), checkpoint.bank, places, spec, probes, checkpoint=sha256, multiple=multiple
    )
    table = time_probes(probes, timer, report)
    LATENCY_TABLE.write(path, table)
    return table


def _plan_miou(
    model: SegCLIP, checkpoint: Checkpoint, dataset: Dataset, settings: TrainSettings
) -> float:
    """The mIoU of a model on split ``plan``, as the distillation measures it."""
    size = InputSpec(height=settings.window, width=settings.window)
    model = model.to(settings.device)
    with torch_segmenter(
        model, checkpoint.bank, checkpoint.vocabulary, size, logits=True
    ) as segmenter:
        return float(score(segmenter, dataset.samples("plan")).confusion.miou)

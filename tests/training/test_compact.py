"""Rounds of pruning and distillation: what comes out, what is refused, and that a killed run goes on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segclip_deploy.artifacts import records
from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.latency_table import LATENCY_TABLE, LatencyTable
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.model.checkpoint import (
    Checkpoint,
    build_model,
    load_checkpoint,
    save_checkpoint,
)
from segclip_deploy.model.segclip import SegCLIP, SegOutput
from segclip_deploy.progress import silent
from segclip_deploy.runtime.inference.frame import read_frame
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.training import compact as module
from segclip_deploy.training import compact_inputs
from segclip_deploy.training.compact import compact
from segclip_deploy.training.compact_inputs import latency_of
from segclip_deploy.training.compact_result import Compacted
from segclip_deploy.training.compact_task import CompactionGoal, CompactionTask
from segclip_deploy.training.distill import (
    DISTILLATION,
    Distiller,
    feature_loss,
    label_tiles,
    with_tiles,
)
from segclip_deploy.training.fit_channels import ChannelFitter, FittedNetwork
from segclip_deploy.training.loop import Progress
from segclip_deploy.training.material import Material
from segclip_deploy.training.prunable import find_prunable_channels
from segclip_deploy.training.qat import distillation_loss
from segclip_deploy.training.stopwatch import Stopwatch, Timing
from tests.support.helpers import call
from tests.support.latency import table_of_another_machine
from tests.training.test_train import SETTINGS, SPEC, bank, data

__all__ = ["data"]  # a fixture

pytest.importorskip("torch_pruning")

STEPS = records.replace(
    SETTINGS, steps=4, batch=2, **{**DISTILLATION, "validate_every": 2, "save_every": 1}
)
WINDOW = InputSpec(height=64, width=64)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of two threads differ from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("parent") / "parent.safetensors"
    save_checkpoint(path, Checkpoint(SPEC, vocabulary, bank(), SegCLIP(SPEC).state_dict()))
    return path


@pytest.fixture(scope="module")
def table(parent: Path) -> LatencyTable:
    return table_of_another_machine(parent)


@pytest.fixture
def task(parent: Path, table: LatencyTable, data: Path, tmp_path: Path) -> CompactionTask:
    dataset = open_dataset(data, load_checkpoint(parent).vocabulary)
    return CompactionTask(
        parent,
        tmp_path / "small.safetensors",
        Material(dataset),
        CompactionGoal(speed_up=1.5),
        STEPS,
        WINDOW,
        latency=table,
    )


def test_a_compact_checkpoint_is_an_ordinary_one_that_names_its_parent(
    task: CompactionTask, parent: Path
) -> None:
    made = compact(task)
    checkpoint = load_checkpoint(task.out)
    done = checkpoint.compaction
    (network,) = made.networks
    assert done == network.compaction
    assert (done.parent, done.rounds, done.multiple) == (sha256_file(parent), 2, 8)
    assert (done.measured, done.parent_ms) == (False, 10.0)  # and the record says so
    assert done.ms <= 1.02 * 10 / 1.5
    first, second = (one.timing.ratio for one in made.rounds)
    assert first == pytest.approx(1.5**-0.5, rel=0.06)
    assert second < first
    model = build_model(checkpoint)
    counts = {p.name: p.count for p in find_prunable_channels(model, 64, 64)}
    assert all(count % 8 == 0 for count in counts.values())
    whole = build_model(load_checkpoint(parent))
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    assert checkpoint.training is not None
    assert network.miou == checkpoint.training.plan.miou
    assert not task.folder.exists()
    result = call("inspect", task.out)
    assert "layers pruned" in result.stdout
    assert done.parent[:16] in result.stdout


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_weights(task: CompactionTask, tmp_path: Path) -> None:
    compact(task)
    killed = replace(task, out=tmp_path / "killed.safetensors")
    steps = 0

    def stop(_: Progress) -> None:
        nonlocal steps
        steps += 1
        if steps == 7:  # in the second round
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compact(killed, told=stop)
    with pytest.raises(StaleArtifact, match="other options"):
        compact(replace(killed, goal=CompactionGoal(speed_up=1.4)))
    steps = 100
    told: list[int] = []
    compact(killed, told=lambda now: told.append(now.step))
    assert told == [4]  # the third was written down before it was told of
    one, other = (load_checkpoint(path) for path in (task.out, killed.out))
    assert one.spec == other.spec
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name]), name


@pytest.mark.parametrize(
    ("goal", "option", "nearest"),
    [
        (CompactionGoal(speed_up=9), "--speed-up 9", r"--speed-up (\S+)$"),
        (CompactionGoal(max_latency_ms=1), "--max-latency-ms 1", r"--max-latency-ms (\S+)$"),
    ],
)
def test_a_time_that_cannot_be_is_refused_with_the_nearest_that_can(
    goal: CompactionGoal, option: str, nearest: str, task: CompactionTask
) -> None:
    import re

    with pytest.raises(BadInput) as refused:
        compact(replace(task, goal=goal))
    assert refused.value.where == option
    assert not task.folder.exists()
    found = re.search(nearest, refused.value.fix or "")
    assert found is not None
    named = {name: float(found[1]) for name, value in goal.to_json().items() if value}
    possible = CompactionGoal(**named)
    made = compact(replace(task, goal=possible, rounds=1, settings=records.replace(STEPS, steps=1)))
    assert made.networks[0].compaction.ms <= 1.03 * possible.ratio(10.0) * 10.0


def test_what_a_run_of_other_options_has_measured_is_not_taken(
    task: CompactionTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it measures: the table that lies there would be of another size."""

    monkeypatch.setattr(module, "Stopwatch", _kill)
    with pytest.raises(KeyboardInterrupt):
        compact(task)
    monkeypatch.undo()
    with pytest.raises(StaleArtifact, match="other options") as refused:
        compact(replace(task, spec=InputSpec(height=64, width=96)))
    assert f"rm -r {task.folder}" in (refused.value.fix or "")


def test_a_latency_that_is_reached_already_is_refused(task: CompactionTask) -> None:
    with pytest.raises(BadInput, match=r"takes 10\.0 ms already"):
        compact(replace(task, goal=CompactionGoal(max_latency_ms=11)))


def test_a_goal_within_the_noise_gives_a_network_that_is_faster_still(task: CompactionTask) -> None:
    goal = CompactionGoal(speed_up=1.001)
    made = compact(replace(task, goal=goal, rounds=1, settings=records.replace(STEPS, steps=1)))
    assert 0.9 < made.rounds[0].timing.ratio < 0.98


@pytest.mark.parametrize("goal", [CompactionGoal(speed_up=1.001), CompactionGoal(max_miou_drop=1)])
def test_where_pruning_saves_no_time_a_smaller_input_is_named(
    goal: CompactionGoal, task: CompactionTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Stopwatch", partial(OtherStopwatch, share=0.0))
    with pytest.raises(BadInput, match="a smaller input is faster"):
        compact(replace(task, goal=goal))


def faked(mious: list[float]) -> type[Distiller]:
    """Distillation that trains one step and says which accuracy it reached."""

    class Faked(Distiller):
        def run(self, report: Callable[[Progress], None]) -> None:
            super().run(report)
            checkpoint = load_checkpoint(self.out)
            assert checkpoint.training is not None
            plan = records.replace(checkpoint.training.plan, miou=mious.pop(0))
            training = records.replace(checkpoint.training, plan=plan)
            save_checkpoint(self.out, replace(checkpoint, training=training))

    return Faked


@pytest.fixture
def by_accuracy(task: CompactionTask, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Compacted]:
    def run(drop: float, mious: list[float]) -> Compacted:
        monkeypatch.setattr(module, "Distiller", faked(mious))
        monkeypatch.setattr(module, "plan_miou", lambda *_: 0.9)
        goal = CompactionGoal(max_miou_drop=drop)
        return compact(replace(task, goal=goal, settings=records.replace(STEPS, steps=1)))

    return run


def test_accuracy_that_may_go_is_spent_and_no_more(by_accuracy: Callable[..., Compacted]) -> None:
    made = by_accuracy(5, [0.89, 0.86, 0.84, 0.9])
    assert [one.miou for one in made.rounds] == [0.89, 0.86, 0.84]
    (network,) = made.networks
    done = network.compaction
    assert (network.miou, done.rounds, done.parent_miou) == (0.86, 2, 0.9)
    assert done.ms == made.rounds[1].timing.ms


def test_a_drop_that_the_first_round_exceeds_is_refused_with_what_it_costs(
    by_accuracy: Callable[..., Compacted],
) -> None:
    with pytest.raises(BadInput, match=r"costs 3\.00 points already") as refused:
        by_accuracy(1, [0.87])
    assert "--max-miou-drop 3.01" in (refused.value.fix or "")  # rounded up, so that it holds


@pytest.mark.long
def test_a_network_that_has_nothing_left_to_prune_ends_the_rounds(
    by_accuracy: Callable[..., Compacted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STEP", 1.5)
    made = by_accuracy(5, [0.9] * 12)
    ratios = [one.timing.ratio for one in made.rounds]
    assert ratios[-1] == pytest.approx(ratios[-2])
    assert ratios[-1] < 0.5
    assert made.networks[0].compaction.rounds == len(ratios)


def test_of_the_networks_that_keep_the_accuracy_the_fastest_is_handed_over(
    by_accuracy: Callable[..., Compacted], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [9.0, 8.0, 8.1]
    fit = ChannelFitter.fit

    def slower(*arguments: Any, **options: Any) -> FittedNetwork:
        fitted = fit(*arguments, **options)
        return replace(fitted, timing=records.replace(fitted.timing, ms=times.pop(0)))

    monkeypatch.setattr(ChannelFitter, "fit", slower)
    (network,) = by_accuracy(5, [0.9, 0.89, 0.86]).networks
    assert (network.compaction.rounds, network.compaction.ms, network.miou) == (2, 8.0, 0.89)


def test_a_family_is_a_checkpoint_for_each_size(
    task: CompactionTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Distiller", faked([0.9, 0.8]))
    sizes = (0.8, 0.6)
    goal = CompactionGoal(family=sizes)
    made = compact(replace(task, out=tmp_path / "family", goal=goal))
    assert [one.path for one in made.networks] == [
        tmp_path / "family" / "0.8.safetensors",
        tmp_path / "family" / "0.6.safetensors",
    ]
    assert [one.miou for one in made.networks] == [0.9, 0.8]
    for network, size in zip(made.networks, sizes, strict=True):
        done = load_checkpoint(network.path).compaction
        assert done == network.compaction
        assert done.parent == sha256_file(task.source)  # not the network before it
        assert done.ms / done.parent_ms == pytest.approx(size, rel=0.08)
        assert done.ms / done.parent_ms <= 1.02 * size
    assert not task.folder.exists()
    with pytest.raises(BadInput, match="a smallest size of") as refused:
        compact(replace(task, out=tmp_path / "f", goal=CompactionGoal(family=(0.8, 0.01))))
    assert "--family 0.8,0.01" in str(refused.value)


@pytest.mark.parametrize(
    "sizes", [(), (0.5, 0.75), (1.0, 0.5), (0.5, 0.0), (0.85, 0.8499999), (math.nan,)]
)
def test_the_sizes_of_a_family_fall(sizes: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="sizes fall"):
        CompactionGoal(family=sizes)


def test_the_table_must_be_of_the_checkpoint_and_the_size(task: CompactionTask) -> None:
    table = task.latency
    assert table is not None
    for other, told in (
        (records.replace(table, checkpoint="1" * 64), "of another checkpoint"),
        (records.replace(table, window=(64, 96)), "measured at 64x96, not at 64x64"),
    ):
        with pytest.raises(StaleArtifact, match=told):
            compact(replace(task, latency=other))


def test_a_run_of_other_images_is_not_gone_on_with(
    task: CompactionTask, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    shutil.copytree(data, own)
    vocabulary = load_checkpoint(task.source).vocabulary
    task = replace(task, material=Material(open_dataset(own, vocabulary)))
    monkeypatch.setattr(module, "Stopwatch", _kill)
    with pytest.raises(KeyboardInterrupt):
        compact(task)
    monkeypatch.undo()
    swapped = open_dataset(own, vocabulary, reading=Reading(bands=(3, 2, 1)))
    with pytest.raises(StaleArtifact, match="other options or files"):
        compact(replace(task, material=Material(swapped)))
    shutil.copy(own / "masks" / "plan0.png", own / "masks" / "train0.png")
    with pytest.raises(StaleArtifact, match="other options or files"):
        compact(task)


def _kill(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_folder_of_others_in_the_place_of_the_rounds_is_left_as_it_is(
    task: CompactionTask,
) -> None:
    task.folder.mkdir()
    (task.folder / "photo.jpg").touch()
    with pytest.raises(BadInput, match="was not written by this command"):
        compact(task)
    assert [path.name for path in task.folder.iterdir()] == ["photo.jpg"]


def test_tiles_that_judge_are_refused(task: CompactionTask, data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "images" / "plan0.png", tmp_path / "same.png")
    material = replace(task.material, tiles=(data / "images" / "train0.png", tmp_path / "same.png"))
    with pytest.raises(BadInput, match="split 'plan' there judges") as refused:
        compact(replace(task, material=material))
    assert refused.value.where == str(tmp_path / "same.png")
    assert not task.folder.exists()


def test_a_table_without_the_whole_width_of_a_layer_is_refused(task: CompactionTask) -> None:
    assert task.latency is not None
    (name, times), *others = task.latency.layers.items()
    cut = records.replace(task.latency, layers={name: times[1:], **dict(others)})
    with pytest.raises(BadArtifact, match="with all of its"):
        compact(replace(task, latency=cut))


def test_a_damaged_table_of_the_run_is_measured_anew(
    task: CompactionTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = task.latency
    monkeypatch.setattr(compact_inputs, "write_probes", lambda *_, **__: None)
    monkeypatch.setattr(compact_inputs, "time_probes", lambda *_: table)
    (tmp_path / "latency.json").write_text("{")
    own = replace(task, latency=None, target="onnxruntime")
    checkpoint = load_checkpoint(task.source)
    for _ in range(2):
        assert latency_of(own, checkpoint, tmp_path, silent) == table
    assert LATENCY_TABLE.read(tmp_path / "latency.json", fix="") == table


def test_unlabelled_tiles_alone_teach(task: CompactionTask, data: Path) -> None:
    made = compact(
        replace(
            task,
            material=Material(None, (data / "images",)),
            settings=records.replace(STEPS, steps=1),
        )
    )
    done = made.networks[0].compaction
    assert (done.labels, done.parent_miou) == ("parent", None)


def test_tiles_are_labelled_by_the_parent(parent: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(parent)
    model = build_model(checkpoint)
    images = sorted((data / "images").iterdir())
    with Image.open(images[1]) as image:
        image.putalpha(Image.fromarray(np.tri(image.height, image.width, dtype=np.uint8) * 255))
        image.save(tmp_path / "masked.png")
    images[1] = tmp_path / "masked.png"
    reading = Reading(bands=(3, 2, 1))
    dataset = label_tiles(model, checkpoint, images, tmp_path / "t", window=64, reading=reading)
    assert [len(dataset.names(split)) for split in ("plan", "train")] == [1, 3]
    from segclip_deploy.export.torch_backend import torch_segmenter

    size = InputSpec(height=64, width=64)
    with torch_segmenter(
        model, checkpoint.bank, checkpoint.vocabulary, size, logits=True
    ) as segmenter:
        for sample in dataset.samples("train"):
            np.testing.assert_array_equal(
                sample.ground_truth, segmenter.segment(sample.frame).labels
            )
    swapped, hidden = dataset.read("0.plan0").frame, dataset.read("1.masked")
    np.testing.assert_array_equal(swapped.pixels[..., ::-1], read_frame(images[0]).pixels)
    assert ((hidden.ground_truth == IGNORE_INDEX) == ~np.tri(96, 128, dtype=bool)).all()
    with pytest.raises(BadInput, match="1 images"):
        Material(None, (images[0],)).check()


def test_unlabelled_images_besides_are_ignored_by_labels_and_not_by_the_teacher(
    task: CompactionTask, data: Path, tmp_path: Path
) -> None:
    dataset = with_tiles(task.material.dataset, [data / "images" / "plan0.png"])  # type: ignore[arg-type]
    assert dataset.names("train")[-1] == "tiles.0.plan0"
    assert (dataset.read("tiles.0.plan0").ground_truth == IGNORE_INDEX).all()
    assert dataset.names("plan") == ("plan0",)
    checkpoint = load_checkpoint(task.source)
    teacher, student = build_model(checkpoint), build_model(checkpoint)
    run = Distiller(student, teacher, checkpoint, dataset, STEPS, tmp_path / "o", labelled=True)
    torch.manual_seed(0)
    image, ignored = torch.rand(2, 3, 64, 64), torch.full((2, 64, 64), IGNORE_INDEX)
    loss = run._loss(image, ignored)
    texts = checkpoint.bank
    run.trained.train()
    with torch.no_grad():
        own, wanted = (
            m.decode(image, *(torch.from_numpy(a) for a in (texts.classes, texts.texts)))
            for m in (run.trained.model, teacher)
        )
    assert loss.item() > 0  # BatchNorm of a batch is not that of the training
    torch.testing.assert_close(loss, distillation_loss(own, wanted) + feature_loss(own, wanted))
    assert run._loss(image, torch.zeros_like(ignored)) > loss


def test_features_are_compared_by_the_power_of_the_teachers() -> None:
    def saying(*features: list[float]) -> SegOutput:
        return SegOutput(torch.zeros(()), (), tuple(map(torch.tensor, features)))

    teacher = saying([3.0, 4.0], [10.0])
    assert feature_loss(teacher, teacher) == 0
    loss = feature_loss(saying([3.0, 3.0], [20.0]), teacher)
    torch.testing.assert_close(loss, torch.tensor((1 / 25 + 100 / 100) / 2))


class OtherStopwatch(Stopwatch):
    """A machine on which a network saves another share of its time than the table says."""

    def __init__(self, *arguments: Any, share: float) -> None:
        super().__init__(*arguments)
        self.share = share

    def time(self, model: SegCLIP) -> Timing:
        said = self.estimate(find_prunable_channels(model, 64, 64))
        return Timing(parent_ms=20.0, ms=20 - 2 * self.share * (10 - said.ms), measured=True)


@pytest.mark.parametrize("share", [0.5, 1.6])
def test_what_is_measured_decides_and_not_the_table(
    parent: Path, table: LatencyTable, tmp_path: Path, share: float
) -> None:
    checkpoint = load_checkpoint(parent)
    model = build_model(checkpoint)
    watch = OtherStopwatch(model, checkpoint.bank, WINDOW, table, tmp_path, share=share)
    fitter = ChannelFitter(watch)
    importance = {
        p.name: np.arange(1.0, p.count // p.unit + 1) for p in find_prunable_channels(model, 64, 64)
    }
    fitted = fitter.fit(model, importance, now=1.0, wanted=lambda _: 0.85)
    assert fitted.reached
    assert 0.85 / 1.05 <= fitted.timing.ratio <= 0.85 * 1.02
    assert not fitter.fit(model, importance, now=1.0, wanted=lambda _: 0.05).reached


def test_a_table_of_an_unknown_target_is_refused(
    parent: Path, table: LatencyTable, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(parent)
    other = records.replace(table, target="tensorr")
    with pytest.raises(BadArtifact, match="unknown target 'tensorr'"):
        Stopwatch(build_model(checkpoint), checkpoint.bank, WINDOW, other, tmp_path)


@pytest.mark.long
def test_a_network_is_timed_in_turns_with_its_parent(
    parent: Path, table: LatencyTable, tmp_path: Path
) -> None:
    from segclip_deploy.runtime.targets.device import find_cpu

    checkpoint = load_checkpoint(parent)
    model = build_model(checkpoint)
    here = records.replace(table, device=find_cpu(), target="onnxruntime")
    timing = Stopwatch(model, checkpoint.bank, WINDOW, here, tmp_path).time(model)
    assert timing.measured
    assert timing.ms > 0 < timing.parent_ms


def test_the_command_says_what_was_measured_and_what_was_not(
    task: CompactionTask, data: Path, tmp_path: Path
) -> None:
    assert task.latency is not None
    LATENCY_TABLE.write(tmp_path / "latency.json", task.latency)
    arguments: list[Any] = [
        "compact",
        task.source,
        "--dataset",
        data,
        "-o",
        task.out,
        "--size",
        "64",
    ]
    arguments += ["--latency", tmp_path / "latency.json", "--steps", 1, "--crop", 64, "--batch", 2]
    result = call(*arguments, "--speed-up", 1.2, "--rounds", 1, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "NOT measured in another machine's at 64x64;" in " ".join(result.stdout.split())
    result = call(*arguments, "--speed-up", 1.2, "--max-miou-drop", 1)
    assert result.exit_code == 2
    assert "give one of --max-miou-drop, --speed-up, --max-latency-ms and --family" in result.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--speed-up", "nan"], "nan is not above 1"),
        (["--max-latency-ms", "inf"], "inf is not above 0"),
        (["--speed-up", 1.2, "--learning-rate", -1], "--learning-rate"),
        (["--speed-up", 1.2, "--crop", 0], "--crop"),
        (["--speed-up", 1.2, "--mask-suffix", "_m"], "tiles alone have no masks"),
        (["--family", "0.8,0.6", "--rounds", 3], "--family decides how many there are"),
        (["--probes", "p"], "does nothing else, and takes no --out"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_read(
    options: list[object], told: str, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing"
    result = call(
        *("compact", nothing, "--tiles", nothing, "-o", tmp_path / "o", "--steps", 1, *options)
    )
    assert result.exit_code == 2, result.output
    assert told in result.stderr

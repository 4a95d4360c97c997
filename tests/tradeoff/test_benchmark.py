"""``benchmark``: the sweep on real engines, killed and gone on with, and its report."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.checkpoint_record import Compaction
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadArtifact, GateFailed
from segclip_deploy.export.export import export_bundle
from segclip_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from segclip_deploy.progress import silent
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.profiling import power
from segclip_deploy.tradeoff import artifact_cache, benchmark, measure_points, timed_frames
from segclip_deploy.tradeoff.results import RESULTS
from segclip_deploy.tradeoff.row import IdlePower
from segclip_deploy.tradeoff.sweep_grid import SweepGrid, points
from tests.conftest import EXAMPLE
from tests.support.fakes import FakeBackend, random_frame
from tests.support.helpers import call


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


def make_dataset(root: Path, height: int = 256, width: int = 480) -> Path:
    """Crops of real images with random masks: two to calibrate, one to plan, two that judge."""
    vocabulary = load_vocabulary("dubai")
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    values = np.array([entry.mask_value for entry in vocabulary.classes], dtype=np.uint8)
    names = []
    for index, source in enumerate([*sorted((EXAMPLE / "images").iterdir())] * 2):
        if index == 5:
            break
        names.append(f"image<{index}>")  # a name that HTML must escape
        with Image.open(source) as image:
            left = 500 * (index // 4)
            image.crop((left, 0, left + width, height)).save(root / "images" / f"{names[-1]}.png")
        mask = values[rng.integers(0, len(values), (height, width))]
        Image.fromarray(mask).save(root / "masks" / f"{names[-1]}.png")
    split = {"train": names[:2], "plan": names[2:3], "val": names[3:]}
    (root / "split.json").write_text(json.dumps(split))
    return root


@pytest.fixture
def sweep(tiny_bundle: Path, dataset: Path) -> Callable[..., list[object]]:
    def command(out: Path, *more: object) -> list[object]:
        return [
            *("benchmark", tiny_bundle, "--eval", dataset, "--calib", dataset, "-o", out),
            *("--target", "onnxruntime", "--samples", 10, *more),
        ]

    return command


def test_a_sweep_that_was_killed_goes_on_to_the_same_accuracy(
    sweep: Callable[..., list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ("--precision", "int8", "--bound", "orin-nano", "--threads", 1)
    options += ("--altitude", 100, "--speed", 5, "--sensor", "dji-p1")
    assert call(*sweep(whole, *options)).exit_code == 0
    once, made = measure_points._once, []

    def die(*arguments: object) -> object:
        made.append(1)
        if len(made) > 8:
            raise KeyboardInterrupt
        return once(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(measure_points, "_once", die)
    result = call(*sweep(killed, *options))
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert not (killed / "results.json").exists()
    monkeypatch.setattr(measure_points, "_once", once)
    build = artifact_cache.build_engine
    monkeypatch.setattr(artifact_cache, "build_engine", None)  # all engines are there
    assert call(*sweep(killed, *options)).exit_code == 0
    monkeypatch.setattr(artifact_cache, "build_engine", build)

    first, second = (json.loads((f / "results.json").read_text()) for f in (whole, killed))
    measured = {"frame_ms", "stages"}
    for one, other in zip(first["rows"], second["rows"], strict=True):
        assert {k: v for k, v in one.items() if k not in measured} == {
            k: v for k, v in other.items() if k not in measured
        }
        assert len(one["frame_ms"]) == len(other["frame_ms"]) == 10
    assert {row["precision"] for row in first["rows"]} == {"fp32", "int8"}
    assert first["rows"][0]["drop"] == {"value": 0.0, "low": 0.0, "high": 0.0}

    results = RESULTS.read(whole / "results.json", fix="")
    assert {row.reference for row in results.rows} == {results.rows[0].name}
    assert {one.name for one in results.mission} == {row.name for row in results.rows}
    assert {bound.board for bound in results.bounds} == {"orin-nano"}
    (compared,) = results.comparisons
    assert {compared.engine, compared.other} == {row.name for row in results.rows}
    assert compared.engine == results.recommended
    assert results.why.endswith(f"; beside the next fastest: {compared.told}")

    page = (whole / "report.html").read_text()
    assert "100 m above ground at 5 m/s" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)  # needs no network
    pictures = re.findall(r"<img[^>]*>", page)
    assert len(pictures) == 7  # five, and two images where engines disagree
    assert all(re.search(r'alt="[^"]{60,}"', picture) for picture in pictures)
    assert "<0>" not in page
    assert "image&lt;" in page
    assert "They are no estimates" in page
    assert compared.drop.delta_interval in page
    again = call(*sweep(whole, *options, "--dry-run"))
    assert "engines to make: 0" in again.stdout


@pytest.mark.faults
def test_what_fails_its_check_is_shown_and_never_flies(
    sweep: Callable[..., list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = artifact_cache.build_engine

    def refuse(bundle: object, out: Path, **options: object) -> object:
        if "int8" in str(getattr(bundle, "precision", "")):
            raise GateFailed("verification failed at labels: 12 % equal")
        return build(bundle, out, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(artifact_cache, "build_engine", refuse)
    result = call(*sweep(tmp_path / "r", "--precision", "int8"))
    assert result.exit_code == 0, result.stderr
    assert "must not fly: bundle · ort · int8: verification failed at labels" in result.stdout
    assert "fly bundle · ort · fp32" in result.stdout
    results = RESULTS.read(tmp_path / "r" / "results.json", fix="")
    assert [failure.name for failure in results.failures] == ["bundle · ort · int8"]
    assert [results.recommended] == list(results.engines) == ["bundle · ort · fp32"]
    assert "must not fly" in (tmp_path / "r" / "report.html").read_text()
    result = call(*sweep(tmp_path / "r", "--precision", "fp32", "--max-latency-ms", 1e-6))
    assert result.exit_code == 3
    assert "none fits; nearest is" in result.stdout


@pytest.mark.faults
def test_a_bundle_that_cannot_be_calibrated_fails_alone(
    sweep: Callable[..., list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> object:
        raise BadArtifact("it does not run here")

    monkeypatch.setattr(artifact_cache, "calibrate_on", refuse)
    result = call(*sweep(tmp_path / "r", "--precision", "int8"))
    assert result.exit_code == 0, result.stderr
    assert "must not fly: bundle · ort · int8: it does not run here" in result.stdout
    assert "fly bundle · ort · fp32" in result.stdout


def test_engines_of_a_sweep_try_both_ways_of_making_labels_where_there_are_two(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_cache, "build_engine", lambda _bundle, _path, options: options)
    cache = artifact_cache.ArtifactCache(tmp_path, None, tmp_path, silent)
    for target, labels in (("tensorrt", "auto"), ("onnxruntime", None)):
        grid = SweepGrid(bundles=[tiny_bundle], targets=[target], precisions=["fp32"])
        (point,) = points(grid)
        assert cache.engine(point).labels == labels


def test_latency_is_measured_on_the_frames_of_a_camera(
    tiny_bundle: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timed_frames, "CAMERA_FRAMES", 5)
    camera, closer, out = (tmp_path / name for name in ("camera", "closer", "r"))
    camera.mkdir()
    for n in range(6):
        Image.fromarray(random_frame(300, 300, n).pixels).save(camera / f"{n}.png")
    shutil.copytree(tiny_bundle, closer)  # its windows share 32 pixels, and not a quarter of 64
    record = json.loads((closer / "bundle.json").read_text())
    record["input"]["overlap"] = 32
    (closer / "bundle.json").write_text(json.dumps(record))
    command = ["benchmark", closer, "--eval", dataset, "-o", out, "--target", "onnxruntime"]
    command += ["--precision", "fp32", "--samples", 10]
    result = call(*command, "--frames", camera)
    assert result.exit_code == 0, result.stderr
    (hint,) = [line for line in result.stderr.splitlines() if line.startswith("hint: ")]
    assert "64x96 (height first) compute 3.07 times the pixels of a frame of 300x300" in hint
    assert hint.endswith("segclip-deploy export CKPT -o BUNDLE --frame 300x300")
    results = RESULTS.read(out / "results.json", fix="")
    conditions = results.conditions
    assert (conditions.frame_folder, conditions.frames) == (str(camera), 5)
    assert conditions.frame_sizes == ((300, 300),)
    (row,) = results.rows
    assert (row.overlap, row.windows, len(row.frame_ms)) == (32, 9 * 5, 10)
    assert row.pixel_ratio == round(45 * 64 * 96 / 300**2, 4)
    assert f"{row.frames_per_second:8.2f}  {row.pixel_ratio:8.2f}" in result.stdout
    assert f"from {camera}" in (out / "report.html").read_text()

    monkeypatch.setattr(benchmark, "write_report", lambda out, *_, **__: out)
    assert call(*command).exit_code == 0  # other frames, so another measurement
    results = RESULTS.read(out / "results.json", fix="")
    assert (results.conditions.frame_folder, results.conditions.frames) == (None, 2)
    assert (results.rows[0].windows, len(results.rows[0].frame_ms)) == (7 * 7, 10)
    missing = call(*command, "--frames", tmp_path / "none")
    assert missing.exit_code == 1
    assert "none: no such file or folder" in missing.stderr
    board = call(*command[:4], "--prepare", tmp_path / "board", "--frames", camera)
    assert (board.exit_code, board.stderr) == (
        2,
        "error: --frames are timed on the board; give them there\n",
    )


def test_energy_is_metered_where_there_is_a_sensor(
    sweep: Callable[..., list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (measure_points, power):
        monkeypatch.setattr(module, "find_wattmeter", lambda _: ("a rail of 7 W", lambda: 7.0))
    monkeypatch.setattr(measure_points, "_ENERGY_SECONDS", 0.3)
    monkeypatch.setattr(measure_points, "_IDLE_SECONDS", 0.2)
    monkeypatch.setattr(measure_points, "_IDLE_PAUSE", 0)
    result = call(*sweep(tmp_path, "--precision", "fp32", "--max-joules", 1e-6))
    assert result.exit_code == 3
    assert "energy" in result.stdout
    (row,) = RESULTS.read(tmp_path / "results.json", fix="").rows
    assert row.joules is not None
    assert row.idle == IdlePower(watts=7.0, seconds=0.2, sensor="a rail of 7 W")
    assert row.joules_above_idle == pytest.approx(0, abs=1e-9)  # it takes no watt more
    assert "J a frame" in (tmp_path / "report.html").read_text()


def test_energy_is_power_by_time_over_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "find_wattmeter", lambda _: ("a rail of 7 W", lambda: 7.0))
    monkeypatch.setattr(measure_points, "_ENERGY_SECONDS", 0.3)
    frames = [random_frame(64, 64, n) for n in range(3)]
    backend = FakeBackend(64, 64, latency_ms=5)
    segmenter = Segmenter(backend, InputSpec(64, 64), load_vocabulary("dubai"))
    started = time.perf_counter()
    idle = IdlePower(watts=2.0, seconds=10.0, sensor="a rail of 7 W")
    found = measure_points._energy(segmenter, frames, idle, Path("/"))
    elapsed = time.perf_counter() - started
    counted = len(backend.seen) - len(frames)  # the first round warms up
    assert found.joules is not None
    assert 7 * 0.3 / counted <= found.joules <= 7 * elapsed / counted
    assert found.above_idle == pytest.approx(found.joules * (7 - 2) / 7)
    assert measure_points._energy(segmenter, frames, None, Path("/")).above_idle is None


def test_a_compact_network_is_compared_with_the_one_that_it_comes_from(
    sweep: Callable[..., list[object]],
    tiny_checkpoint: Path,
    tiny_bundle: Path,
    dataset: Path,
    tmp_path: Path,
) -> None:
    whole = load_checkpoint(tiny_checkpoint)
    compaction = Compaction(
        parent=sha256_file(tiny_checkpoint),
        engine="another's",
        window=(64, 96),
        parent_ms=2.0,
        ms=1.0,
        measured=False,
        load=None,
        multiple=8,
        rounds=1,
        parent_miou=None,
        labels="parent",
    )
    weights = {name: value * 0.5 for name, value in whole.weights.items()}  # other labels
    small = replace(whole, weights=weights, compaction=compaction)
    save_checkpoint(tmp_path / "small.safetensors", small)
    export_bundle(
        tmp_path / "small.safetensors",
        tmp_path / "small",
        spec=InputSpec(64, 96),
        lowerings=[Lowering.CPU],
    )

    out = tmp_path / "out"
    alone = [tmp_path / "small" if part == tiny_bundle else part for part in sweep(out)]
    refused = call(*alone, "--precision", "fp32")
    assert refused.exit_code == 1
    assert "the network that this was compacted from is not among the arguments" in refused.stderr
    assert not out.exists()

    both = [*alone, "--precision", "fp32"]
    both.insert(1, tiny_bundle)
    assert call(*both).exit_code == 0
    rows = {row.name: row for row in RESULTS.read(out / "results.json", fix="").rows}
    first, second = (f"{name} · ort · fp32" for name in ("bundle", "small"))
    assert {row.reference for row in rows.values()} == {first}
    assert [rows[name].own_fp32 for name in (first, second)] == [first, second]
    lost = rows[first].miou - rows[second].miou
    assert lost != 0
    assert rows[second].drop.value == pytest.approx(lost)


def test_a_checkpoint_that_was_exported_stands_for_its_bundle(
    sweep: Callable[..., list[object]], tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_bundle, out / "work" / "exported" / tiny_checkpoint.stem)
    asked = [tiny_checkpoint if part == tiny_bundle else part for part in sweep(out)]
    planned = call(*asked, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.stderr
    assert json.loads(planned.stdout)["engines"] == 3  # fp32, int8, planned


def test_what_cannot_be_swept_is_refused_before_anything_is_made(
    sweep: Callable[..., list[object]], tiny_bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"

    def said(*more: object, code: int = 1) -> str:
        result = call(*sweep(out, *more))
        assert result.exit_code == code, result.output
        assert not out.exists()
        return result.stderr

    assert "no class tree" in said("--min-class-iou", "tree=0.5")
    assert "no split 'test'" in said("--split", "test")
    assert "is none of orin-nano" in said("--bound", "xavier")
    assert "--altitude, --speed and --sensor" in said("--altitude", 100, code=2)
    assert "is no sensor" in said("--altitude", 100, "--speed", 5, "--sensor", "x")
    result = call("benchmark", tiny_bundle, "--eval", dataset, "-o", out)
    assert "--calib DIR" in result.stderr


@pytest.mark.parametrize(("place", "target"), [("-o", "onnxruntime"), ("--prepare", "tensorrt")])
def test_tiles_that_cannot_be_calibrated_on_are_refused_before_anything_is_made_of_them(
    place: str, target: str, tiny_bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    result = call(
        *("benchmark", tiny_bundle, "--eval", dataset, "--calib", dataset / "images"),
        *(place, tmp_path / "r", "--target", target),
    )
    assert result.exit_code == 1, result.output
    assert "there is for evaluation" in result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("place", ["-o", "--prepare"])
def test_a_folder_of_others_and_a_wrong_option_are_refused_before_a_checkpoint_is_exported(
    place: str, dataset: Path, tmp_path: Path
) -> None:
    full, checkpoint = tmp_path / "full", tmp_path / "network.safetensors"
    full.mkdir()
    (full / "mine").touch()
    checkpoint.touch()  # whoever reads it finds that it is none

    def said(out: Path, *more: object, code: int) -> str:
        result = call("benchmark", checkpoint, "--eval", dataset, place, out, *more)
        assert result.exit_code == code, result.output
        assert {p.name for p in tmp_path.rglob("*")} == {"full", "mine", checkpoint.name}
        return result.stderr

    written = "was not written by this command" if place == "-o" else "has not written"
    assert written in said(full, code=1)
    assert "is none of orin-nano" in said(tmp_path / "new", "--bound", "xavier", code=1)
    assert "--altitude, --speed" in said(tmp_path / "new", "--altitude", 100, code=2)

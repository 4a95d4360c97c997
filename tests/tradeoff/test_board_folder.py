"""What a board measures: prepared folders, quantized bundles and engines, with nothing that a base install lacks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segclip_deploy import api
from segclip_deploy.artifacts.bundle import Bundle, load_bundle
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.errors import (
    BadInput,
    GateFailed,
    MissingDependency,
    StaleArtifact,
    UsageError,
)
from segclip_deploy.evaluation.accuracy import score
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.export import export
from segclip_deploy.progress import silent
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.tradeoff import artifact_cache, benchmark, measure_points
from segclip_deploy.tradeoff.board_folder import check_disk, load_manifest, write_board_folder
from segclip_deploy.tradeoff.made import sort_given
from segclip_deploy.tradeoff.results import RESULTS, ResultsRecord
from tests.conftest import ROOT
from tests.support.fakes import FakeBackend
from tests.support.helpers import call
from tests.tradeoff.test_benchmark import make_dataset

SWEEP = ("--target", "onnxruntime", "--samples", 10, "--threads", 1)
_HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "modelopt", "openvino", "timm", "safetensors")


@pytest.fixture(scope="module")
def board(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a workstation prepares it: FP32, INT8, and one that no bundle could be made for."""
    folder = tmp_path_factory.mktemp("prepared")
    data = make_dataset(folder / "data")
    quantize = artifact_cache.quantize

    def fail(bundle: Bundle, out: Path, *, plan: Any, table: CalibrationTable) -> Bundle:
        if table.method == "minmax":
            raise GateFailed("labels differ")
        return quantize(bundle, out, plan=plan, table=table)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(artifact_cache, "quantize", fail)
        done = call(
            *("benchmark", tiny_bundle, "--eval", data, "--calib", data),
            *("--prepare", folder / "board", "--target", "onnxruntime", "--precision", "int8"),
            *("--method", "percentile", "--method", "minmax"),
        )
    assert done.exit_code == 0, done.output
    assert "left out: bundle-int8-cpu-minmax: labels differ" in done.stdout
    assert "copy it to the board" in done.stdout
    return folder / "board"


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: that takes longer than all else."""

    def absent(*_: object, **__: object) -> Path:
        raise MissingDependency("no jinja2")

    monkeypatch.setattr(benchmark, "write_report", absent)


def results_of(folder: Path) -> ResultsRecord:
    return RESULTS.read(folder / "results.json", fix="")


def test_a_board_measures_a_prepared_folder_without_torch_onnx_and_pictures(
    board: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(board, copied)
    absent = (*_HEAVY, "matplotlib", "jinja2")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from segclip_deploy.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "benchmark", str(copied), "-o", str(tmp_path / "r")]
    done = subprocess.run(
        [*command, *map(str, SWEEP)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "no page, only" in done.stderr
    results = results_of(tmp_path / "r")
    assert [row.precision for row in results.rows] == ["fp32", "int8"]
    assert {row.reference for row in results.rows} == {results.rows[0].name}
    assert [failure.name for failure in results.failures] == ["bundle-int8-cpu-minmax"]
    assert results.conditions.images == 2
    assert not (tmp_path / "r" / "report.html").exists()


@pytest.mark.usefixtures("no_page")
def test_a_killed_run_on_a_board_goes_on_to_the_same_rows(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its accuracy is what ``evaluate`` says of the same bundle."""
    command = ("benchmark", board, "-o", tmp_path / "r", *SWEEP)
    once, turns = measure_points._once, iter(range(9))

    def die(*arguments: Any) -> Any:
        if next(turns, None) is None:
            raise KeyboardInterrupt
        return once(*arguments)

    monkeypatch.setattr(measure_points, "_once", die)
    assert call(*command).exit_code == 130
    monkeypatch.setattr(measure_points, "_once", once)
    kept = {path: path.read_bytes() for path in (tmp_path / "r" / "work" / "latency").iterdir()}
    monkeypatch.setattr(artifact_cache, "build_engine", None)  # all engines are there
    assert call(*command).exit_code == 0
    samples = {json.loads(data)["frame_ms"][0] for data in kept.values()}
    rows = results_of(tmp_path / "r").rows
    assert {row.frame_ms[0] for row in rows} == samples
    bundles = load_manifest(board, silent).bundles
    for row, bundle in zip(rows, bundles, strict=True):
        assert row.miou == api.evaluate(bundle, board / "data", threads=1).miou
        assert row.bundle_sha256 == load_bundle(bundle).sha256
    # What it was scored on is known to be what the workstation has, under other names.
    first, dataset = load_bundle(bundles[0]), board.parent / "data"
    segmenter = Segmenter(FakeBackend(64, 96), first.input, first.vocabulary)
    scored = score(segmenter, open_dataset(dataset, first.vocabulary).samples("val"))
    assert {row.ground_truth_sha256 for row in rows} == {scored.ground_truth_sha256}


@pytest.mark.long
@pytest.mark.usefixtures("no_page")
def test_engines_are_measured_as_they_are(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, (fp32, int8) = board / "data", load_manifest(board, silent).bundles
    engines = [tmp_path / f"{path.name}.ort.onnx" for path in (fp32, int8)]
    for path, engine in zip((fp32, int8), engines, strict=True):
        api.build_engine(path, out=engine)
    with monkeypatch.context() as patched:
        patched.setattr(artifact_cache, "build_engine", None)
        patched.setattr(artifact_cache, "quantize", None)
        done = call("benchmark", *engines, "--eval", data, "-o", tmp_path / "e", *SWEEP)
    assert done.exit_code == 0, done.output
    rows = results_of(tmp_path / "e").rows
    assert [row.precision for row in rows] == ["fp32", "int8"]
    assert rows[1].reference == rows[0].name
    for given, parent in (([fp32, engines[1]], fp32), ([engines[0], int8, fp32], fp32)):
        assert {made.parent for made in sort_given(given).made} == {parent}
    with pytest.raises(BadInput, match="the FP32 bundle that this int8 was made of is not among"):
        sort_given([engines[1]])
    with pytest.raises(UsageError, match="the board builds its own: give its bundle"):
        api.benchmark(engines, eval=data, prepare=tmp_path / "p")


@pytest.mark.usefixtures("no_page")
def test_a_variant_that_fails_is_told_and_the_others_go_on(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = artifact_cache.build_engine

    def fail(bundle: Any, path: Path, **options: Any) -> Any:
        if bundle.precision == "int8":
            raise GateFailed("labels differ")
        return build(bundle, path, **options)

    monkeypatch.setattr(artifact_cache, "build_engine", fail)
    done = api.benchmark(board, out=tmp_path / "r", target=["onnxruntime"], samples=10)
    assert isinstance(done, api.Benchmark)
    assert [row.precision for row in done.results.rows] == ["fp32"]
    assert done.results.failures[-1].why == "labels differ"


def test_a_prepared_folder_that_is_not_what_was_prepared_is_refused(
    board: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(board, copied)
    mask = next((copied / "data" / "masks").iterdir())
    kept = mask.read_bytes()
    mask.write_bytes(kept[:-1])
    with pytest.raises(StaleArtifact, match="is not what was prepared; copy the folder again"):
        api.benchmark(copied, out=tmp_path / "r")
    mask.unlink()
    with pytest.raises(StaleArtifact, match="is missing"):
        api.benchmark(copied, out=tmp_path / "r")
    mask.write_bytes(kept)
    with pytest.raises(UsageError, match=r"--eval: .* was prepared, and brings that"):
        api.benchmark(copied, eval=board.parent / "data", out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.long
def test_a_checkpoint_is_exported_once(
    tiny_checkpoint: Path, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("benchmark", tiny_checkpoint, "--eval", board / "data", "--prepare", tmp_path / "b")
    command += ("--precision", "fp32")
    assert call(*command).exit_code == 0
    monkeypatch.setattr(export, "export_bundle", None)
    done = call(*command, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["bundles"] == [f"bundles/{tiny_checkpoint.stem}"]
    assert load_bundle(tmp_path / "b" / told["bundles"][0]).input.height == 512


def test_a_folder_of_other_files_is_not_replaced(board: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(board, copied)
    manifest = load_manifest(copied, silent)
    data = open_dataset(manifest.dataset, load_bundle(manifest.bundles[0]).vocabulary)
    bundles = {path.name: path for path in load_manifest(board, silent).bundles}

    def write(out: Path) -> None:
        write_board_folder(out, bundles, data, "val", plan_split=None, failures=(), report=silent)

    write(tmp_path / "new")
    write(tmp_path / "new")  # over what it wrote
    photo = copied / "data" / "holiday.jpg"
    photo.write_bytes(b"dear")
    with pytest.raises(BadInput, match=r"holds data/holiday\.jpg, which this command has not"):
        write(copied)
    (copied / "manifest.json").unlink()
    with pytest.raises(BadInput, match="holds bundles/"):
        write(copied)
    assert photo.read_bytes() == b"dear"


def test_what_does_not_fit_is_told_before_it_is_begun(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=r"takes about 1000000000\.00 GB, and .* GB are free"):
        check_disk(tmp_path / "not" / "there", 10**18)
    free = iter([1_000_000_000, 400_000_000])
    monkeypatch.setattr(measure_points, "system_memory", lambda _: next(free))
    with pytest.raises(BadInput, match=r"1 of 2 engines leave 0\.40 GB .* took 0\.60 GB"):
        api.benchmark(board, out=tmp_path / "r", target=["onnxruntime"], samples=10)

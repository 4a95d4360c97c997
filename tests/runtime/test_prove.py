from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine, record_path
from segclip_deploy.artifacts.engine_record import GpuDevice, TimingCacheUse
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadArtifact, BadInput, GateFailed, StaleArtifact
from segclip_deploy.runtime.build_engine import build_engine, refit_engine
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.open_engine import open_engine, open_segmenter
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.device import Gpu, Jetson
from segclip_deploy.runtime.targets.tensorrt.plan_memory import PlanMemory
from segclip_deploy.runtime.targets.tensorrt.tensorrt_backend import TensorRtBackend
from tests.conftest import EXAMPLE
from tests.support.fake_tensorrt import ORIN, install
from tests.support.helpers import call, edited

# Behind the stand-in is TensorRT-RTX, whose timing cache is deprecated; TensorRT's is not.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's timing cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


# ---- build, then prove: through a stand-in for the GPU (tests/support/fake_tensorrt.py)


def test_an_engine_is_proven_and_its_layers_are_written_down(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    engine = build_engine(load_bundle(tiny_bundle), tmp_path / "e.engine")
    built = engine.record.built
    assert built.verified.passed
    assert built.verified.engine.startswith("TensorRT 10.3.0, Orin, plain launches")
    assert built.blocks == {"encoder.stage1": {"fp16": 1}}
    assert built.device == GpuDevice(
        gpu="Orin",
        compute_capability=("8.7",),
        driver="540.4.0",
        cuda="12.6",
        library="TensorRT 10.3.0",
        multiprocessors=16,
    )
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    with open_segmenter(engine.path) as flown, open_segmenter(tiny_bundle) as reference:
        frame = Frame(image, "noise")
        np.testing.assert_array_equal(flown.segment(frame).labels, reference.segment(frame).labels)
    with pytest.raises(BadInput, match="--threads"):
        open_engine(engine.path, threads=2)


def test_an_open_batch_is_set_at_each_change_and_runs_in_the_same_buffers(
    open_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = install(monkeypatch, open_bundle / "model.onnx")
    engine = build_engine(load_bundle(open_bundle), tmp_path / "e.engine")
    assert state.profile == range(1, 4)
    assert "slot 0 in batch 1" in str(engine.record.built.verified.checks)
    backend = open_engine(engine.path).backend
    assert {spec.batches for spec in (*backend.inputs, *backend.outputs)} == {range(1, 4)}
    reference = open_engine(open_bundle).backend
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    state.batches.clear()
    whole = dict(backend.infer({"image": pixels}))
    for count in (1, 2, 2, 3):
        got = backend.infer({"image": pixels[:count]})
        expected = reference.infer({"image": pixels[:count]})
        for name, values in got.items():
            np.testing.assert_array_equal(values, expected[name])
            assert np.shares_memory(values, whole[name])
    assert state.batches == [1, 2, 3]
    with pytest.raises(ValueError, match=r"not uint8 \(1\.\.3, 64, 96, 3\)"):
        backend.infer({"image": np.zeros((4, 64, 96, 3), np.uint8)})
    with pytest.raises(BadArtifact, match="takes batches from 1 to 3, not from 1 to 4"):
        TensorRtBackend(engine.path, target="tensorrt", batches=range(1, 5))


def test_an_engine_that_fails_is_deleted_and_the_check_named(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = install(monkeypatch, tiny_bundle / "model.onnx")
    state.wrong = {1}
    result = call("build-engine", tiny_bundle, "-o", tmp_path / "e.engine")
    assert result.exit_code == 3
    assert "verification failed at labels" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_of_several_tries_the_fastest_that_passes_is_kept(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = install(monkeypatch, tiny_bundle / "model.onnx")
    state.delay = {1: 0.02, 3: 0.005}
    state.wrong = {2}  # the fastest, and wrong
    monkeypatch.setattr("segclip_deploy.runtime.targets.tensorrt.target._ROUNDS", 3)
    options = BuildOptions(tries=3)
    engine = build_engine(load_bundle(tiny_bundle), tmp_path / "e.engine", options=options)
    tries = engine.record.built.build.tries
    assert [one.passed for one in tries] == [True, False, True]
    assert tries[2].median_ms < tries[0].median_ms
    state.wrong = {4, 5}
    with pytest.raises(GateFailed):
        build_engine(load_bundle(tiny_bundle), tmp_path / "f.engine", options=BuildOptions(tries=2))
    assert not (tmp_path / "f.engine").exists()


@pytest.mark.parametrize(("wrong", "kept"), [(None, "kernel"), (2, "graph")])
def test_of_both_ways_of_making_labels_the_faster_that_passes_is_kept(
    wrong: int | None, kept: str,
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    state = install(monkeypatch, tiny_bundle / "model.onnx")
    state.delay = {1: 0.02}  # the plan that makes its labels itself
    state.wrong = {wrong} if wrong else set()
    monkeypatch.setattr("segclip_deploy.runtime.targets.tensorrt.target._ROUNDS", 3)
    path = tmp_path / "e.engine"
    result = call("build-engine", tiny_bundle, "-o", path, "--labels", "auto")
    assert result.exit_code == 0, result.stderr
    maker = {"graph": "the graph", "kernel": "a kernel on the GPU"}[kept]
    assert f"labels made by {maker}, the faster of both" in result.stdout
    built = load_engine(path).record.built
    assert (built.labels, "labels by a kernel" in built.verified.engine) == (kept, kept == "kernel")
    assert [one.labels for one in built.build.tries] == ["graph", "kernel"]
    assert f"made by {maker}" in call("inspect", path).stdout


def test_a_plan_of_logits_gives_what_the_bundle_promises(
    open_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, open_bundle / "model.onnx")
    bundle = load_bundle(open_bundle)
    options = BuildOptions(labels="kernel")
    engine = build_engine(bundle, tmp_path / "e.engine", options=options)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    with open_engine(engine.path).backend as flown, open_engine(open_bundle).backend as reference:
        assert flown.outputs == reference.outputs
        assert tuple(spec.name for spec in flown.outputs) == bundle.outputs
        assert flown.decode is not None
        for batch in (3, 1, 2):
            expected = reference.infer({"image": pixels[:batch]})
            for name, values in flown.infer({"image": pixels[:batch]}).items():
                np.testing.assert_array_equal(values, expected[name])
    driver, planned = sys.modules["pycuda.driver"], reference.outputs[:1]
    with pytest.raises(BadArtifact, match="e: the plan gives no float32 logits to make margin of"):
        PlanMemory(
            *(driver, None),
            inputs=(), planned=planned, given=("labels", "margin"), shared=False, where="e",
        )  # fmt: skip


def test_a_timing_cache_is_kept_reused_and_reported(
    tiny_bundle: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    bundle = load_bundle(tiny_bundle)
    use = build_engine(bundle, tmp_path / "e.engine").record.built.build.timing_cache
    stored = own_cache / "segclip-deploy" / "Orin-16-540.4.0-TensorRT-10.3.0.timing"
    assert use == TimingCacheUse(path=str(stored), known=0, new=0)  # RTX times nothing
    assert stored.is_file()
    assert b"10.3.0" in stored.read_bytes().partition(b"\n")[0]

    stale = tmp_path / "stale.timing"
    stale.write_bytes(stored.read_bytes().replace(b"TensorRT 10.3.0", b"TensorRT 10.13.0"))
    before = {p.name for p in tmp_path.iterdir()}
    for content, said in (
        (stale.read_bytes(), "library is TensorRT 10.13.0, here TensorRT 10.3.0"),
        (b"\0\1\2", "not a timing cache"),
    ):
        stale.write_bytes(content)
        result = call(
            "build-engine", tiny_bundle, "-o", tmp_path / "f.engine", "--timing-cache", stale
        )
        assert result.exit_code == 1
        assert said in result.stderr
        assert f"rm {stale}" in result.stderr
        assert {p.name for p in tmp_path.iterdir()} == before


# ---- an engine meets another machine


@pytest.mark.faults
def test_an_engine_built_elsewhere_is_refused_with_what_differs_and_the_command(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    path = tmp_path / "e.engine"
    options = BuildOptions(workspace=512)
    build_engine(load_bundle(tiny_bundle), path, options=options)
    command = f"segclip-deploy build-engine {tiny_bundle} -o {path} --workspace 512"
    record = json.loads(record_path(path).read_text())
    record["built"]["device"].update(gpu="NVIDIA RTX A2000", compute_capability=["8.6"])
    record_path(path).write_text(json.dumps(record))
    with pytest.raises(StaleArtifact) as caught:
        open_engine(path)
    assert str(caught.value) == (
        f"{path}: GPU is Orin here, NVIDIA RTX A2000 when it was built; "
        f"compute capability is 8.7 here, 8.6 when it was built; {command}"
    )
    assert call("verify", path).exit_code == 3
    assert command in call("run", path, EXAMPLE / "images", "-o", tmp_path / "o").stderr


@pytest.mark.filterwarnings("default")
@pytest.mark.faults
def test_another_orin_is_refused_and_another_power_mode_is_a_note(
    tiny_bundle: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    home = "segclip_deploy.runtime.targets.tensorrt"

    def move(board: str, mode: str, gpu: Gpu = ORIN) -> None:
        jetson = Jetson(board, "36.4.3", "6.2")
        monkeypatch.setattr(f"{home}.compatibility.find_jetson", lambda: jetson)
        monkeypatch.setattr(f"{home}.compatibility.power_mode", lambda: mode)
        monkeypatch.setattr(f"{home}.target.find_gpu", lambda why: gpu)

    path = tmp_path / "e.engine"
    command = f"segclip-deploy build-engine {tiny_bundle} -o {path}"
    move("AGX Orin", "MAXN")
    device = build_engine(load_bundle(tiny_bundle), path).record.built.device
    assert (device.board, device.multiprocessors, device.power_mode) == ("AGX Orin", 16, "MAXN")
    (cache,) = own_cache.glob("segclip-deploy/*.timing")
    assert cache.name.startswith("Orin-AGX-Orin-16-MAXN-")
    assert call("verify", path).stderr == ""

    move("AGX Orin", "30W")
    result = call("verify", path)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"note: {path}: power mode is 30W here, MAXN when it was built")
    assert result.stderr.endswith(f"; {command}\n")

    move("Orin NX", "MAXN", replace(ORIN, multiprocessors=8))
    with pytest.raises(StaleArtifact) as caught:
        open_engine(path)
    assert str(caught.value) == (
        f"{path}: board is Orin NX here, AGX Orin when it was built; "
        f"number of multiprocessors is 8 here, 16 when it was built; {command}"
    )


def test_an_engine_of_schema_3_opens_unless_it_does_not_tell_its_gpu(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    for name in ("e.engine", "e.ort.onnx"):
        build_engine(load_bundle(tiny_bundle), tmp_path / name)
        record = json.loads(record_path(tmp_path / name).read_text())
        record["schema"] = 3
        del record["built"]["build"]["fixed_sha256"]
        for new in ("multiprocessors", "power_mode"):
            record["built"]["device"].pop(new, None)
        record_path(tmp_path / name).write_text(json.dumps(record))
    open_engine(tmp_path / "e.ort.onnx").backend.close()
    with pytest.raises(StaleArtifact, match="is 16 here, not told when it was built; segclip"):
        open_engine(tmp_path / "e.engine")


@pytest.mark.faults
def test_a_truncated_engine_and_a_foreign_sidecar_are_refused_with_the_command(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = load_bundle(tiny_bundle)
    path, other = tmp_path / "e.rtx", tmp_path / "other.rtx"
    build_engine(bundle, path, options=BuildOptions(compute_capability=("86",)))
    build_engine(bundle, other, options=BuildOptions(compute_capability=("89",)))
    command = f"build-engine {tiny_bundle} -o {path} --compute-capability"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StaleArtifact, match="is not the file") as caught:
        load_engine(path)
    assert f"{command} 86" in str(caught.value)
    path.write_bytes(whole)
    shutil.copy(record_path(other), record_path(path))
    with pytest.raises(StaleArtifact, match="is not the file"):
        load_engine(path)


def test_a_plan_the_library_refuses_is_named_with_the_command(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    path = tmp_path / "e.engine"
    build_engine(load_bundle(tiny_bundle), path)
    path.write_bytes(b"not a plan")
    record = json.loads(record_path(path).read_text())
    record["engine_sha256"] = sha256_file(path)
    record_path(path).write_text(json.dumps(record))
    with pytest.raises(
        BadArtifact, match=r"TensorRT 10\.3\.0 refuses it \(Error Code 6: the plan is damaged\)"
    ) as caught:
        open_engine(path)
    assert f"build-engine {tiny_bundle} -o {path}" in str(caught.value)


# ---- refit


@pytest.mark.faults
def test_what_cannot_be_refitted_is_refused_with_the_command(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    bundle = load_bundle(tiny_bundle)
    command = f"segclip-deploy build-engine {tiny_bundle} -o"
    model = build_engine(bundle, tmp_path / "e.ort.onnx")
    with pytest.raises(BadInput, match="an engine for onnxruntime cannot be refitted") as caught:
        refit_engine(model, bundle)
    assert f"{command} {model.path}" in str(caught.value)
    plain = build_engine(bundle, tmp_path / "e.engine")
    with pytest.raises(BadInput, match="not built to be refitted") as caught:
        refit_engine(plain, bundle)
    assert f"{command} {plain.path} --refittable" in str(caught.value)
    refittable = dataclasses.replace(
        plain, record=replace(plain.record, arguments=("--refittable",))
    )
    other = edited(tiny_bundle, tmp_path / "int8", onnx.load(bundle.model_path), precision="int8")
    with pytest.raises(BadInput, match="another model than the engine's: precision differs"):
        refit_engine(refittable, other)


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["e.engine", "e.rtx"])
def test_an_engine_built_here_passes_here(name: str, example_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt" if name == "e.engine" else "tensorrt_rtx")
    path = tmp_path / name
    engine = build_engine(load_bundle(example_bundle), path)
    assert engine.record.built.verified.passed
    assert engine.record.built.layers
    assert call("verify", path).exit_code == 0
    cache = engine.record.built.build.timing_cache
    if name == "e.engine":
        again = build_engine(load_bundle(example_bundle), path).record.built.build.timing_cache
        assert again.known is None or again.known == cache.known + cache.new


@pytest.mark.gpu
def test_a_refittable_engine_takes_over_another_vocabulary(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt")
    path = tmp_path / "e.engine"
    engine = build_engine(load_bundle(tiny_bundle), path, options=BuildOptions(refittable=True))
    model = onnx.load(tiny_bundle / "model.onnx")
    for weight in model.graph.initializer:
        if weight.name.startswith("text."):
            values = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(np.roll(values, 1, axis=0), weight.name))
    bundle = edited(tiny_bundle, tmp_path / "other", model)
    # The golden tiles still hold the old vocabulary's answers: refitting must be noticed.
    with pytest.raises(GateFailed):
        refit_engine(engine, bundle)
    assert load_engine(path).record == engine.record
    assert refit_engine(engine, load_bundle(tiny_bundle)).record.built.verified.passed

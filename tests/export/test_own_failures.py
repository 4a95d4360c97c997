"""Networks of users that cannot be exported, or that a library crashes on: one line each."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.onnx_part import boundary, nodes, part
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.model.checkpoint import Checkpoint, save_checkpoint
from segclip_deploy.runtime import trial
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from tests.conftest import ROOT
from tests.support import nets
from tests.support.fakes import random_bank
from tests.support.helpers import call

NETS = Path(nets.__file__)
SPEC = ModelSpec(classes=5, text_width=16)
CASES = ROOT.parent / "shared" / "cases" / "networks"


def line_of(code: str) -> int:
    """Where a piece of code first stands in the networks' file."""
    return NETS.read_text()[: NETS.read_text().index(code)].count("\n") + 1


def export(
    name: str, tmp_path: Path, *, of: type[torch.nn.Module] | None = None
) -> tuple[int, str]:
    """Exit code and error of ``export --model``; the bundle is ``tmp_path / "b"``."""
    module, _, factory = name.partition(":")
    made = of or getattr(sys.modules[module], factory)
    torch.manual_seed(0)
    state = made(SPEC).state_dict() if isinstance(made, type) else {}
    tiles = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Checkpoint(SPEC, load_vocabulary("dubai"), random_bank(1), state, tiles))
    result = call("export", path, "--model", name, "-o", tmp_path / "b", "--size", "64")
    told, *lines = result.stderr.splitlines()
    assert told == f"--model {name}: this code is run, with all rights of yours"
    assert len(lines) <= 1
    return result.exit_code, "".join(lines)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("network", "code"),
    [
        ("Conditional", "if x.mean() > 0.1:"),
        ("Loop", "while x.abs().max() > 1:"),
        ("Choice", "return x if x.min() < 0 < x.max() else 2 * x"),
    ],
)
def test_control_flow_by_data_is_one_line_with_the_users_file_and_line(
    network: str, code: str, tmp_path: Path
) -> None:
    exit_code, error = export(f"tests.support.nets:{network}", tmp_path)
    assert exit_code == 1
    assert error.startswith(f"error: {NETS}:{line_of(code)}: forward decides by what the image")
    assert repr(code) in error
    assert "torch.where" in error
    assert not (tmp_path / "b").exists()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("network", "operator", "code"),
    [
        ("NoForm", "prims.bessel_i1", "return x * torch.special.i1(x)"),
        ("NoFormEither", "aten._linalg_eigh", "x = torch.linalg.eigvalsh"),
    ],
)
def test_an_operator_without_a_form_in_onnx_is_named_with_the_users_line(
    network: str, operator: str, code: str, tmp_path: Path
) -> None:
    exit_code, error = export(f"tests.support.nets:{network}", tmp_path)
    assert exit_code == 1
    assert error.startswith(f"error: {NETS}:{line_of(code)}: ONNX has no form of the operator ")
    assert operator in error


@pytest.mark.faults
@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("Fails", f"{NETS}:{line_of('return x.reshape(3, 7)')}: its forward fails: RuntimeError"),
        ("BadFold", f"{NETS}:{line_of('raise NotImplementedError')}: its fold fails: NotImpl"),
        ("broken", f"{NETS}:{line_of('raise KeyError')}: making the network fails: KeyError"),
        ("number", "--model tests.support.nets:number: makes a int, not a torch.nn.Module"),
        ("Pair", "--model tests.support.nets:Pair: forward returns a tuple, not logits"),
        ("Small", "forward gives torch.float32 (1, 5, 8, 8) of an image of 64×64 and 5 classes, not"),
    ],
)  # fmt: skip
def test_a_network_that_breaks_the_contract_is_refused_in_one_line_before_any_work(
    network: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segclip_deploy.export.export.write_onnx", None)  # never reached
    exit_code, error = export(f"tests.support.nets:{network}", tmp_path)
    assert exit_code == 1
    assert said in error


@pytest.mark.faults
def test_a_module_that_fails_when_it_is_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_that_fails.py").write_text("import torch\nWIDTH = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    _, error = export("mine_that_fails:Net", tmp_path, of=nets.Base)
    assert f"{tmp_path / 'mine_that_fails.py'}:2: importing it fails: ZeroDivisionError" in error


@pytest.mark.shared
@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs {CASES}, which is absent")
def test_the_networks_of_the_field_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    monkeypatch.setattr(sys, "path", [str(CASES), *sys.path])
    import nets as cases  # type: ignore[import-not-found]

    exit_code, error = export("nets:Conditional", tmp_path, of=cases.Conditional)
    assert exit_code == 1
    assert f"{CASES / 'nets.py'}:42: forward decides" in error
    assert export("nets:Deform", tmp_path, of=cases.Deform) == (0, "")
    result = call("build-engine", tmp_path / "b", "-o", tmp_path / "e.ort.onnx")
    assert result.exit_code == 0
    _is_refused_or_runs(tmp_path)


def _is_refused_or_runs(tmp_path: Path) -> None:
    """OpenVINO either crashes apart, and the operator is named, or has been mended."""
    result = call("build-engine", tmp_path / "b", "-o", tmp_path / "e.ov.onnx")
    assert len(result.stderr.splitlines()) <= 1
    if result.exit_code:
        assert "OpenVINO crashes on this model (SIG" in result.stderr
        assert "DeformConv" in result.stderr
    assert (tmp_path / "e.ov.onnx").exists() == (result.exit_code == 0)


@pytest.mark.faults
def test_a_deformable_convolution_does_not_end_the_process(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert export("tests.support.nets:Deform", tmp_path) == (0, "")
    _is_refused_or_runs(tmp_path)


class CrashesAt:
    """Stands in for processes apart: dies of any model in which some operators follow one another."""

    def __init__(self, operators: set[str], number: int = signal.SIGSEGV) -> None:
        self.operators, self.number, self.runs = operators, number, 0

    def __call__(self, of: trial._Trial, model: Path) -> tuple[int, dict[str, object]]:
        self.runs += 1
        if self.operators <= {node.operator for node in nodes(model)}:
            return self.number, {}
        with OnnxRuntimeBackend(model) as backend:
            return 0, {spec.name: (spec.dtype.name, spec.shape) for spec in backend.outputs}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("operators", "said"),
    [
        ({"Einsum"}, "at the operator Einsum (head/Einsum)"),
        ({"Cast"}, "at the operator Cast (graph/Cast)"),
        ({"Relu", "Einsum"}, "at the operators Relu (stem.2/Relu) … Einsum (head/Einsum)"),
    ],
    ids=["in the middle", "the first", "two together"],
)
def test_the_operators_that_crash_a_library_are_found_by_halving(
    operators: set[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export("tests.support.nets:Base", tmp_path) == (0, "")
    crash = CrashesAt(operators)
    monkeypatch.setattr(trial._Trial, "run", lambda own, model: crash(own, model))
    result = call("build-engine", tmp_path / "b", "-o", tmp_path / "e.ort.onnx")
    assert result.exit_code == 1
    assert f"ONNX Runtime crashes on this model (SIGSEGV), {said}; " in result.stderr
    assert crash.runs <= 4 * len(nodes(tmp_path / "b" / "model.onnx")).bit_length()
    assert not (tmp_path / "e.ort.onnx").exists()


@pytest.mark.faults
def test_a_process_that_is_killed_for_memory_is_told_apart_from_a_crash(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = CrashesAt({"Conv"}, signal.SIGKILL)
    monkeypatch.setattr(trial._Trial, "run", lambda own, model: crash(own, model))
    result = call("build-engine", tiny_bundle, "-o", tmp_path / "e.ort.onnx")
    assert "ONNX Runtime was killed while it compiled this model; see to it" in result.stderr
    assert crash.runs == 1


def test_a_process_apart_reports_signals_types_and_nothing_else(tiny_bundle: Path) -> None:
    from segclip_deploy.runtime.registry import TARGETS

    model = tiny_bundle / "model.onnx"
    for name, settings, expected in (
        ("onnxruntime", {}, 0),
        ("onnxruntime", {"no_such_setting": 1}, 0),  # an error there is an error here, later
    ):
        died, outputs = trial._Trial(TARGETS[name], range(1, 2), settings).run(model)
        assert died == expected
        assert bool(outputs) == (not settings)
    _, outputs = trial._Trial(TARGETS["onnxruntime"], range(1, 2), {}).run(model)
    assert outputs == {"labels": ("uint8", (1, 64, 96)), "logits": ("float32", (1, 5, 16, 24))}


def test_a_run_pays_nothing_for_it(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "e.ort.onnx"
    assert call("build-engine", tiny_bundle, "-o", engine).exit_code == 0
    monkeypatch.setattr(trial._Trial, "run", None)  # never called
    assert call("verify", engine).exit_code == 0
    assert call("run", engine, ROOT / "examples/dubai/images", "-o", tmp_path / "r").exit_code == 0


def test_parts_of_a_graph_compute_what_the_whole_does(tiny_bundle: Path, tmp_path: Path) -> None:
    model = tiny_bundle / "model.onnx"
    graph = nodes(model)
    cut = len(graph) // 2
    between = boundary(graph, cut, len(graph))
    assert between
    front, back = tmp_path / "front.onnx", tmp_path / "back.onnx"
    front.write_bytes(part(model, 0, cut, outputs=between))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)

    def run(file: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with OnnxRuntimeBackend(file, reference=True) as backend:
            taken = {spec.name: arrays[spec.name] for spec in backend.inputs}
            return {name: array.copy() for name, array in backend.infer(taken).items()}

    middle = run(front, {"image": image})
    kinds = {name: (array.dtype.name, array.shape) for name, array in middle.items()}
    back.write_bytes(part(model, cut, len(graph), inputs=kinds, outputs=["labels", "logits"]))
    whole, parts = run(model, {"image": image}), run(back, {"image": image, **middle})
    assert np.array_equal(whole["labels"], parts["labels"])
    np.testing.assert_array_equal(whole["logits"], parts["logits"])

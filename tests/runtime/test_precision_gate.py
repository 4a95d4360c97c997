"""What of a plan an engine keeps: counted from its layers, told, and held to by --require-precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.bundle_record import PlannedOperator
from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.runtime.targets.openvino import OpenVino
from tests.conftest import uniformly
from tests.support.fake_tensorrt import StandIn, install
from tests.support.helpers import call

pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")

FORMATS = {
    "int8": "Thirty-two wide channel vectorized row major Int8 format",
    "fp16": "Channel major FP16 format where channel % 8 == 0",
    "fp32": "Row major linear FP32",
}
"""As the inspector of TensorRT 10 writes types."""


def inspected(read: dict[str, str | None]) -> dict[str, object]:
    """What an inspector tells of an engine: a layer for each operator, which reads a type."""
    layers = [
        {
            "Name": name,
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": FORMATS.get(kind or "", "N/A")}],
            "Outputs": [],
            "Metadata": f"[ONNX Layer: {name}]\x1e[ONNX Layer: {name.partition('/')[0]}/Clip]",
        }
        for name, kind in read.items()
    ]
    return {"Layers": layers, "Bindings": ["image", "labels"]}


@pytest.fixture(scope="module")
def int8(tiny_bundle: Path, tiny_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gate") / "int8"
    return uniformly(tiny_bundle, tiny_table, out, "tensorrt", "int8")


@pytest.fixture
def state(int8: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return install(monkeypatch, load_bundle(int8).model_path)


def operators(bundle: Path) -> dict[str, PlannedOperator]:
    done = load_bundle(bundle).record.quantization
    assert done is not None
    assert done.operators is not None
    return dict(done.operators)


def largest(bundle: Path, precision: str) -> str:
    own = {n: o.macs for n, o in operators(bundle).items() if o.precision == precision}
    return max(own, key=own.__getitem__)


def test_an_engine_that_keeps_its_plan_passes_and_says_so(
    int8: Path, state: StandIn, tmp_path: Path
) -> None:
    state.information = inspected({name: o.precision for name, o in operators(int8).items()})
    out = tmp_path / "e.engine"
    result = call("build-engine", int8, "-o", out, "--require-precision", "100")
    assert result.exit_code == 0, result.stderr
    assert "INT8: 100.0% of the planned MACs run so, 0.0% fell back" in result.stdout
    assert "FP16: 100.0% of the planned MACs run so" in result.stdout
    engine = load_engine(out)
    assert engine.record.arguments == ("--require-precision", "100")
    shares = engine.record.precision_shares
    assert shares is not None
    for share in shares:
        own = (o.macs for o in operators(int8).values() if o.precision == share.precision)
        assert share.kept == share.planned == sum(own) > 0


@pytest.mark.faults
def test_an_operator_that_fell_back_is_named_and_ends_the_build(
    int8: Path, state: StandIn, tmp_path: Path
) -> None:
    lost, untold = largest(int8, "int8"), largest(int8, "fp16")
    read: dict[str, str | None] = {name: o.precision for name, o in operators(int8).items()}
    state.information = inspected({**read, lost: "fp16", untold: None})
    out = tmp_path / "e.engine"
    result = call("build-engine", int8, "-o", out, "--require-precision", "95")
    assert result.exit_code == 3
    assert "--require-precision 95: INT8: " in result.stderr
    assert f"fell back: {lost} " in result.stderr
    assert f"segclip-deploy build-engine {int8} -o {out}; segclip-deploy inspect {out}" in (
        result.stderr
    )
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("e.*"))
    result = call("build-engine", int8, "-o", out, "--json")  # what it proposes
    told = {share["precision"]: share for share in json.loads(result.stdout)["precision_shares"]}
    assert list(told["int8"]["fell_back"]) == [lost]
    assert (told["int8"]["unknown"], list(told["fp16"]["unknown"])) == ({}, [untold])
    shown = call("inspect", out).stdout
    assert "INT8: " in shown
    rows = shown.partition("operators that do not run as planned, or may not")[2].splitlines()
    for name, what in ((lost, "fell back"), (untold, "unknown")):
        (row,) = (row for row in rows if row.split()[:1] == [name])
        assert row.rstrip().endswith(what)


@pytest.mark.faults
def test_what_cannot_be_looked_into_proves_nothing(
    int8: Path, state: StandIn, tmp_path: Path
) -> None:
    """A plan for a GPU that is not here, one whose inspector tells no detail, an older bundle."""
    state.information = {"Layers": ["names", "only"]}
    out, gate = tmp_path / "e.engine", ("--require-precision", "1")
    result = call("build-engine", int8, "-o", out, *gate)
    assert result.exit_code == 3
    assert "its library tells nothing of its layers" in result.stderr
    assert not list(tmp_path.glob("e.*"))
    result = call("build-engine", int8, "-o", out)
    assert result.exit_code == 0
    assert "not known what runs as planned: its library tells nothing" in result.stdout
    out = tmp_path / "ahead.rtx"
    result = call("build-engine", int8, "-o", out, "--compute-capability", "120", *gate)
    assert result.exit_code == 3
    assert "nothing proves what the engine computes in: the GPU here has" in result.stderr
    assert not list(tmp_path.glob("ahead*"))


@pytest.mark.faults
def test_an_older_bundle_is_refused_before_it_is_built(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = shutil.copytree(int8, tmp_path / "old")
    record = json.loads((old / "bundle.json").read_text())
    del record["quantization"]["operators"]
    (old / "bundle.json").write_text(json.dumps({**record, "schema": 4}))
    monkeypatch.setattr(OpenVino, "scheme", Scheme.TENSORRT)  # or it is refused for its scheme
    monkeypatch.setattr(OpenVino, "build", None)  # it would be called
    result = call("build-engine", old, "-o", tmp_path / "e.ov.onnx", "--require-precision", "1")
    assert result.exit_code == 3
    assert "does not say what each operator was planned in" in result.stderr
    assert "segclip-deploy quantize FP32_BUNDLE --scheme tensorrt --precision int8" in result.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("e.ort.onnx", "is an option of tensorrt and tensorrt-rtx and openvino"),
        ("e.ov.onnx", "is FP32; leave it out"),
    ],
)
def test_where_nothing_could_be_held_to_it_is_refused(
    name: str, said: str, tiny_bundle: Path, int8: Path, tmp_path: Path
) -> None:
    bundle = int8 if name == "e.ort.onnx" else tiny_bundle
    result = call("build-engine", bundle, "-o", tmp_path / name, "--require-precision", "95")
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []

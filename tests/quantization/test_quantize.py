"""Plans and quantized bundles: what is proven before one is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import yaml

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.bundle_record import Calibration
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.plan import PrecisionPlan, load_plan, save_plan
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import load_table, save_table
from segclip_deploy.errors import BadArtifact, BadInput, GateFailed, StaleArtifact
from segclip_deploy.export.onnx_model import load_fp32, load_model
from segclip_deploy.export.parity import sqnr
from segclip_deploy.quantization.activation_absmax import _groups, find_absmax
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.verify import MIN_AGREEMENT
from tests.conftest import uniformly
from tests.runtime.test_verify import edited, set_constant
from tests.support.helpers import call

KINDS = [("tensorrt", "fp16"), ("tensorrt", "int8"), ("cpu", "int8")]
Make = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("kind", "agreement", "decibels"),
    [(KINDS[0], 0.998, 45), (KINDS[1], 0.975, 25), (KINDS[2], 0.975, 20)],
)
def test_the_example_keeps_its_labels_and_its_bundle_says_how_it_was_made(
    kind: tuple[str, str],
    agreement: float,
    decibels: float,
    quantized: Make,
    example_bundle: Path,
    example_table: Path,
) -> None:
    scheme, precision = kind
    bundle = load_bundle(quantized(scheme, precision))
    record, parent = bundle.record, load_bundle(example_bundle)
    assert record.quantization is not None
    quality, calibration = record.quantization.quality, record.quantization.calibration
    assert quality.label_agreement >= agreement
    assert quality.logit_sqnr_db >= decibels
    assert (bundle.precision, bundle.scheme) == (precision, Scheme(scheme))
    assert (bundle.input, bundle.outputs) == (parent.input, parent.outputs)
    assert bundle.vocabulary == parent.vocabulary
    assert record.parents.bundle == parent.sha256 == sha256_file(example_bundle / "bundle.json")
    assert record.parents.checkpoint == parent.record.parents.checkpoint
    if precision == "int8":
        table = load_table(example_table)
        assert record.parents.table == table.digest
        assert table.appearance is not None
        known = table.appearance
        assert calibration == Calibration(method="percentile", tiles=16, appearance=known)
        assert record.appearance == known
    else:  # a table that was given and not used is no parent
        assert record.parents.table is None
        assert calibration is None
    golden, original = load_golden(bundle.golden_path), load_golden(parent.golden_path)
    np.testing.assert_array_equal(golden.labels, original.labels)
    assert golden.precision == precision
    assert golden.agreement == quality.reference_agreement
    assert golden.reference is not None
    flips = sum(quality.flips.values())
    assert flips > 0
    assert quality.label_agreement == pytest.approx(1 - flips / golden.labels.size)
    # What no engine can be nearer to its file than: the margin of verification.
    assert quality.reference_agreement > MIN_AGREEMENT[precision]
    if scheme == "cpu":
        assert quality.reference_agreement == 1
        assert (golden.reference != golden.labels).sum() == flips
    graph = onnx.load(bundle.model_path).graph
    assert {o.name for o in graph.output} == {"labels"}
    used = {name for node in graph.node for name in node.input} | {"labels"}
    assert all(used & set(node.output) for node in graph.node)
    assert all(initializer.name in used for initializer in graph.initializer)
    result = call("verify", bundle.path)
    assert result.exit_code == 0, result.output


def test_fp16_keeps_fp32_what_overflows_and_says_so(quantized: Make) -> None:
    record = load_bundle(quantized("tensorrt", "fp16")).record.quantization
    fallback = record.fp32_fallback
    for stride in (8, 16, 32):
        # Its softmax takes a maximum first, and is FP16.
        assert f"cff.{stride}.language_to_vision/Softmax" not in fallback
        assert "squares overflow" in fallback[f"cff.{stride}.read/Mul"]
        assert "its constant 1e-06" in fallback[f"cff.{stride}.score_map/Clip"]
    assert not [name for name in fallback if name.startswith(("encoder.", "decoder."))]
    assert set(record.plan.values()) == {"fp16", "fp32"}


def test_fast_kernels_of_both_cpu_engines_say_what_the_file_says(
    quantized: Make, tmp_path: Path
) -> None:
    """Weights of ±63: with ±127 a CPU without VNNI overflows 16 bits silently."""
    for name in ("e.ov.onnx", "e.ort.onnx"):
        result = call("build-engine", quantized("cpu", "int8"), "-o", tmp_path / name, "--json")
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        checks = told["built"]["verified"]["checks"]
        (labels,) = [check for check in checks if check["name"] == "labels"]
        assert float(labels["detail"].split("%")[0]) >= 99
        if name == "e.ort.onnx":  # it tells nothing of its layers
            assert told["precision_shares"] is None
            continue
        (share,) = told["precision_shares"]
        assert (share["precision"], share["fell_back"], share["unknown"]) == ("int8", {}, {})
        operators = told["bundle"]["quantization"]["operators"]
        single = {name for name, one in operators.items() if one["precision"] == "fp32"}
        layers = [one for one in told["built"]["layers"] if single & {*one["nodes"]}]
        # The types are the layers' own, and not the plan's.
        assert {one["reads"][0] for one in layers} == {"fp32"}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_bundle_says_what_each_operator_of_its_file_was_planned_in(
    kind: tuple[str, str], quantized: Make
) -> None:
    """Against the file: INT8 reads what was dequantized twice, the others have their type."""
    bundle = load_bundle(quantized(*kind))
    done = bundle.record.quantization
    assert done is not None
    told = dict(done.operators or {})
    model = onnx.shape_inference.infer_shapes(onnx.load(bundle.model_path)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.value_info, *model.output)}
    made = {name: node.op_type for node in model.node for name in node.output}
    for node in model.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            assert node.name not in told
            continue
        int8 = {made.get(name) for name in node.input[:2]} == {"DequantizeLinear"}
        half = types[node.output[0]] == onnx.TensorProto.FLOAT16
        expected = "int8" if int8 else "fp16" if half else "fp32"
        assert told.pop(node.name).precision == expected, node.name
    assert not told
    operators = done.operators or {}
    by_block: dict[str, int] = {}
    for name, one in operators.items():
        by_block[block_of(name)] = by_block.get(block_of(name), 0) + one.macs
    assert by_block == {cost.block: cost.macs for cost in bundle.record.blocks if cost.macs}
    assert done.int8_macs == sum(
        one.macs for one in operators.values() if one.precision == "int8"
    ) / sum(by_block.values())


def test_int8_products_read_dequantized_values_without_a_cast_between(quantized: Make) -> None:
    """What TensorRT fuses: DQ → operator, in one precision."""
    graph = onnx.load(load_bundle(quantized("tensorrt", "int8")).model_path).graph
    made = {name: node for node in graph.node for name in node.output}
    operators = [
        node
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        and node.input[1] in made
        and made[node.input[1]].op_type == "DequantizeLinear"
    ]
    assert len(operators) == 67
    assert {made[node.input[0]].op_type for node in operators} == {"DequantizeLinear"}
    casts = {node.input[0] for node in graph.node if node.op_type == "Cast"}
    assert not [
        n.name for n in graph.node if n.op_type == "DequantizeLinear" and n.output[0] in casts
    ]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("size", ["tiny", "example"])
def test_the_tensorrt_dialect_builds_in_tensorrt_rtx(
    size: str,
    precision: str,
    quantized: Make,
    tiny_bundle: Path,
    tiny_table: Path,
    tmp_path: Path,
) -> None:
    """NVIDIA's own parser and builder, which need no GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    if size == "tiny":
        bundle = uniformly(tiny_bundle, tiny_table, tmp_path / "b", "tensorrt", precision)
    else:
        bundle = quantized("tensorrt", precision)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(load_bundle(bundle).model_path))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is not None


@pytest.fixture(scope="module")
def plan(tiny_bundle: Path) -> PrecisionPlan:
    """INT8 wherever it can be."""
    bundle = load_bundle(tiny_bundle)
    return uniform_plan(bundle, load_model(bundle.model_path).graph, Scheme.TENSORRT, "int8")


def test_a_plan_is_read_as_it_was_written(plan: PrecisionPlan, tmp_path: Path) -> None:
    save_plan(tmp_path / "p.yaml", plan)
    again = load_plan(tmp_path / "p.yaml")
    assert again == plan
    assert list(again.blocks) == list(plan.blocks)
    assert plan.blocks["graph"] == "fp32"
    assert plan.blocks["head"] == "fp16"
    assert plan.blocks["encoder.stage1"] == "int8"


def test_one_edited_line_brings_one_block_back(
    plan: PrecisionPlan, tiny_bundle: Path, tiny_table: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "p.yaml", tmp_path / "out"
    save_plan(path, plan)
    text = path.read_text()
    path.write_text(text.replace("encoder.stage2: int8", "encoder.stage2: fp16"))
    assert path.read_text() != text
    result = call("quantize", tiny_bundle, "--plan", path, "--table", tiny_table, "-o", out)
    assert result.exit_code == 0, result.output
    assert "tensorrt, blocks" in result.stdout
    assert load_bundle(out).record.plan["encoder.stage2"] == "fp16"
    graph = onnx.load(load_bundle(out).model_path).graph
    weights = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    in_int8 = {
        block_of(n.name) for n in graph.node if n.op_type == "Conv" and n.input[1] in weights
    }
    assert {"encoder.stage1", "encoder.stage3"} <= in_int8
    assert "encoder.stage2" not in in_int8


def test_fp16_all_the_way_leaves_no_dead_cast_behind(
    plan: PrecisionPlan, example_bundle: Path, tmp_path: Path
) -> None:
    """The logits are looked at in FP32 when the bundle is made, and are no output of it."""
    bundle = load_bundle(example_bundle)
    graph = load_model(bundle.model_path).graph
    fp16 = uniform_plan(bundle, graph, Scheme.TENSORRT, "fp16")
    low = PrecisionPlan(Scheme.TENSORRT, fp16.bundle, dict.fromkeys(fp16.blocks, "fp16"))
    quantize(bundle, tmp_path / "b", plan=low, table=None)
    nodes = onnx.load(load_bundle(tmp_path / "b").model_path).graph.node
    read = {name for node in nodes for name in node.input} | {"labels"}
    assert not [node.name for node in nodes if not read & set(node.output)]


def unknown_block(data: dict[str, Any]) -> None:
    data["blocks"]["encoder.stage9"] = "fp16"


def missing_block(data: dict[str, Any]) -> None:
    del data["blocks"]["head"]


def number_for_a_block(data: dict[str, Any]) -> None:
    data["blocks"][7] = "fp16"


def unknown_precision(data: dict[str, Any]) -> None:
    data["blocks"]["head"] = "int4"


def list_for_a_precision(data: dict[str, Any]) -> None:
    data["blocks"]["head"] = ["int8"]


def int8_where_nothing_can_be(data: dict[str, Any]) -> None:
    data["blocks"]["head"] = "int8"


def unknown_scheme(data: dict[str, Any]) -> None:
    data["scheme"] = "dla"


def half_on_a_cpu(data: dict[str, Any]) -> None:
    data["scheme"] = "cpu"


def other_bundle(data: dict[str, Any]) -> None:
    data["bundle"] = "0" * 64


def no_blocks(data: dict[str, Any]) -> None:
    del data["blocks"]


def flat_blocks(data: dict[str, Any]) -> None:
    data["blocks"] = ["int8"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (unknown_block, "encoder.stage9 is no block of this model; its blocks: "),
        (missing_block, "head is missing; its blocks: "),
        (number_for_a_block, "7 is no block of any model"),
        (unknown_precision, "head is 'int4', not int8 or fp16 or fp32"),
        (list_for_a_precision, "head is ['int8'], not int8 or fp16 or fp32"),
        (int8_where_nothing_can_be, "nothing in it can be int8; write head: fp16"),
        (unknown_scheme, "scheme 'dla' is not tensorrt or cpu"),
        (half_on_a_cpu, "is 'fp16', not int8 or fp32"),
        (other_bundle, "made for another bundle than"),
        (no_blocks, "blocks: is missing; segclip-deploy plan BUNDLE"),
        (flat_blocks, "blocks: expected an object, got a list; segclip-deploy plan BUNDLE"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    edit: Callable[[dict[str, Any]], None],
    said: str,
    plan: PrecisionPlan,
    tiny_bundle: Path,
    tiny_table: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.yaml"
    save_plan(path, plan)
    data = yaml.safe_load(path.read_text())
    edit(data)
    path.write_text(yaml.safe_dump(data))
    result = call(
        "quantize", tiny_bundle, "--plan", path, "--table", tiny_table, "-o", tmp_path / "o"
    )
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert str(path) in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["p.yaml"]


@pytest.mark.parametrize("text", ["", "- a", "{", "\x00", "blocks: {}"])
def test_what_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(BadArtifact, match="not a precision plan"):
        load_plan(tmp_path / "p.yaml")
    with pytest.raises(BadArtifact, match="not a precision plan"):
        load_plan(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{tiny}"], 2, "Missing option '-o'"),
        (["{tiny}", "-o", "{tmp}/o"], 2, "--plan, or --scheme with --precision"),
        (["{tiny}", "-o", "{tmp}/o", "--scheme", "cpu"], 2, "--precision"),
        (["{tiny}", "-o", "{tmp}/o", "--precision", "int8"], 2, "--scheme"),
        (["{tiny}", "-o", "{tmp}/o", "--plan", "p", "--precision", "int8"], 2, "plan"),
        (["{tiny}", "-o", "{tmp}/o", "--scheme", "cpu", "--precision", "fp8"], 2, "fp8"),
        (["{tiny}", "-o", "{tmp}/o", "--scheme", "dla", "--precision", "int8"], 2, "dla"),
        (
            ["{tiny}", "-o", "{tmp}/o", "--scheme", "cpu", "--precision", "fp16"],
            1,
            "CPU engines do not compute in FP16; use --precision int8",
        ),
        (
            ["{tiny}", "-o", "{tmp}/o", "--scheme", "cpu", "--precision", "int8"],
            1,
            "--table: INT8 needs a calibration table; segclip-deploy calibrate BUNDLE",
        ),
        (
            [
                "{open}",
                "-o",
                "{tmp}/o",
                "--scheme",
                "cpu",
                "--precision",
                "int8",
                "--table",
                "{t}",
            ],
            1,
            "measured in another bundle than {open}; segclip-deploy calibrate {open}",
        ),
        (
            ["{tiny}", "-o", "{tiny}", "--scheme", "tensorrt", "--precision", "fp16"],
            1,
            "{tiny}: this is the FP32 bundle itself",
        ),
        (["{tmp}", "-o", "{tmp}/o", "--scheme", "cpu", "--precision", "int8"], 1, "not a bundle"),
    ],
)
def test_mistakes_end_in_one_line_that_says_what_to_do(
    arguments: list[str],
    code: int,
    said: str,
    tiny_bundle: Path,
    open_bundle: Path,
    tiny_table: Path,
    tmp_path: Path,
) -> None:
    places = {"tiny": tiny_bundle, "open": open_bundle, "tmp": tmp_path, "t": tiny_table}
    before = sha256_file(tiny_bundle / "bundle.json")
    result = call("quantize", *(word.format(**places) for word in arguments))
    assert result.exit_code == code, result.output
    assert said.format(**places) in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
    assert sha256_file(tiny_bundle / "bundle.json") == before


@pytest.fixture(scope="module")
def small_fp16(
    tiny_bundle: Path, tiny_table: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("small") / "fp16"
    return uniformly(tiny_bundle, tiny_table, out, "tensorrt", "fp16")


@pytest.mark.parametrize(
    "command",
    [
        ("quantize", "--scheme", "tensorrt", "--precision", "int8"),
        ("calibrate", "--tiles", "/no/such/tiles"),  # refused before any is read
    ],
)
def test_a_bundle_that_has_its_precision_is_not_given_another(
    command: tuple[str, ...], small_fp16: Path, tiny_table: Path, tmp_path: Path
) -> None:
    result = call(*command, small_fp16, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert "this bundle is fp16 already; give the FP32 bundle" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_edited_quantized_bundle_is_refused_with_the_command_that_makes_it(
    small_fp16: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_fp16, tmp_path / "b")
    load_bundle(tmp_path / "b").model_path.write_bytes(b"")
    with pytest.raises(StaleArtifact, match="segclip-deploy quantize FP32_BUNDLE --scheme"):
        load_bundle(tmp_path / "b")


def test_a_library_caller_cannot_mix_up_plans_and_tables_either(
    plan: PrecisionPlan, tiny_bundle: Path, open_bundle: Path, tiny_table: Path, tmp_path: Path
) -> None:
    loaded = load_bundle(open_bundle)
    with pytest.raises(StaleArtifact, match="made for another bundle"):
        quantize(loaded, tmp_path / "o", plan=plan, table=None)
    own = uniform_plan(loaded, load_model(loaded.model_path).graph, Scheme.CPU, "int8")
    with pytest.raises(StaleArtifact, match="measured in another bundle"):
        quantize(loaded, tmp_path / "o", plan=own, table=load_table(tiny_table))
    with pytest.raises(BadInput, match="--table"):
        quantize(load_bundle(tiny_bundle), tmp_path / "o", plan=plan, table=None)
    assert list(tmp_path.iterdir()) == []


def test_any_batch_of_a_range_stays_open_and_is_verified(open_bundle: Path, tmp_path: Path) -> None:
    from tests.conftest import EXAMPLE, calibrated

    table = calibrated(open_bundle, [EXAMPLE / "images"], 16)
    # Untrained, its labels hang by half a step of INT8. Biases of zero leave none to round.
    measured = load_table(table)
    bare = {graph: replace(seen, means={}) for graph, seen in measured.graphs.items()}
    save_table(table, replace(measured, graphs=bare))
    for scheme, precision in KINDS:
        out = uniformly(open_bundle, table, tmp_path / f"{scheme}-{precision}", scheme, precision)
        bundle = load_bundle(out)
        assert bundle.outputs == ("labels", "margin", "logits")
        result = call("verify", out, "--json")
        assert result.exit_code == 0, result.output
        names = [check["name"] for check in json.loads(result.stdout)["checks"]]
        assert names == ["finite", "labels", "classes", "fp32", "batch", "repeats"]
        backend = OnnxRuntimeBackend(bundle.model_path, batches=bundle.input.batches)
        assert backend.inputs[0].batches == range(1, 4)
        assert [o.dtype for o in backend.outputs] == [np.uint8, np.uint8, np.float32]


def test_a_failure_leaves_nothing_and_keeps_the_old(
    tiny_bundle: Path, tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    uniformly(tiny_bundle, tiny_table, out, "tensorrt", "fp16")
    before = {path.name: sha256_file(path) for path in out.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr("segclip_deploy.artifacts.bundle.save_golden", full)
    arguments = ("--scheme", "cpu", "--precision", "int8", "--table", tiny_table, "-o", out)
    result = call("quantize", tiny_bundle, *arguments)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"error: {out}: No space left on device"
    assert {path.name: sha256_file(path) for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_finite_is_not_written(tiny_bundle: Path, tmp_path: Path) -> None:
    def poison(graph: onnx.GraphProto) -> None:
        (head,) = [n for n in graph.node if n.name == "head/Mul"]
        set_constant(graph, head.input[0], lambda old: np.full_like(old, np.nan))

    broken = load_bundle(edited(tiny_bundle, tmp_path / "b", poison))
    plan = uniform_plan(broken, load_model(broken.model_path).graph, Scheme.TENSORRT, "fp16")
    with pytest.raises(GateFailed, match="logits are not finite on golden tile 0"):
        quantize(broken, tmp_path / "o", plan=plan, table=None)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_fp16_that_would_overflow_is_seen_and_kept_fp32(
    example_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head takes cosines, so the length of its pixels' embeddings is nothing to FP32."""

    def lengthen(graph: onnx.GraphProto) -> None:
        (last,) = [node for node in graph.node if node.name == "decoder.4/Conv_2"]
        for name in last.input[1:]:
            set_constant(graph, name, lambda old: old * np.float32(60000))

    long = load_bundle(edited(example_bundle, tmp_path / "b", lengthen))
    assert call("verify", long.path).exit_code == 0
    plan = uniform_plan(long, load_model(long.model_path).graph, Scheme.TENSORRT, "fp16")
    record = quantize(long, tmp_path / "o", plan=plan, table=None).record.quantization
    assert record.quality.label_agreement >= 0.998
    assert "reaches" in record.fp32_fallback["decoder.4/Conv_2"]
    # Were it not kept FP32, the rounding that a CPU does not do by itself would show it.
    monkeypatch.setattr("segclip_deploy.quantization.quantize.find_absmax", lambda *_: {})
    with pytest.raises(GateFailed, match="logits are not finite on golden tile 0"):
        quantize(long, tmp_path / "p", plan=plan, table=None)
    assert {p.name for p in tmp_path.iterdir()} == {"b", "o"}


def test_extremes_are_the_same_however_many_tensors_are_looked_at_at_once(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(tiny_bundle)
    tiles = load_golden(bundle.golden_path).tiles
    at_once = find_absmax(load_fp32(bundle), tiles, 1)
    monkeypatch.setattr("segclip_deploy.quantization.activation_absmax._LOOKED_AT", 2**20)
    model = load_model(bundle.model_path)
    values = [v for n in model.graph for v in n.outputs if v.dtype == ir.DataType.FLOAT]
    groups = list(_groups(values, 1))
    assert 1 < len(groups) < len(values)
    assert [value for group in groups for value in group] == values
    in_groups = find_absmax(load_fp32(bundle), tiles, 1)
    assert list(in_groups) == list(at_once) == [value.name for value in values]
    for name, (top, tile) in at_once.items():
        assert in_groups[name] == (pytest.approx(top, rel=1e-4, abs=1e-6), tile)


def test_signal_to_noise_is_in_decibels_and_finite() -> None:
    signal = np.array([3.0, 4.0], np.float32)
    assert sqnr(signal, signal + np.float32([0.3, 0.4])) == pytest.approx(20, abs=1e-4)
    assert np.isfinite(sqnr(signal, signal))
    assert np.isfinite(sqnr(0 * signal, signal))

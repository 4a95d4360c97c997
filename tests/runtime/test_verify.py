from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine_record import Verification
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.golden import Golden, load_golden
from segclip_deploy.cli import main
from segclip_deploy.errors import GateFailed
from segclip_deploy.export.onnx_model import load_model, save_model
from segclip_deploy.quantization.fp16_emulation import round_as_fp16
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.verify import verify
from tests.support.fakes import CLASSES, FakeBackend, classes_of, random_frame
from tests.support.helpers import copied

NAMES = tuple(f"class {k}" for k in range(CLASSES))


def insert(graph: onnx.GraphProto, tensor: str, order: list[int], axis: int) -> None:
    """Permute an axis of a tensor before everything that reads it."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = "permuted"
    graph.initializer.append(numpy_helper.from_array(np.array(order), "order"))
    gather = helper.make_node("Gather", [tensor, "order"], ["permuted"], axis=axis)
    graph.node.insert(0, gather)


def swap_classes(graph: onnx.GraphProto) -> None:
    (argmax,) = [n for n in graph.node if n.op_type == "ArgMax"]
    (axis,) = [a.i for a in argmax.attribute if a.name == "axis"]  # of the classes
    insert(graph, argmax.input[0], [1, 0, 2, 3, 4], axis=axis)
    moved = graph.node[0]
    del graph.node[0]
    graph.node.insert([n.op_type for n in graph.node].index("ArgMax"), moved)


def swap_channels(graph: onnx.GraphProto) -> None:
    insert(graph, "image", [2, 1, 0], axis=3)


def drop_normalisation(graph: onnx.GraphProto) -> None:
    first = {n.op_type: n for n in reversed(graph.node[:4])}
    for name, value in ((first["Sub"].input[1], 0.0), (first["Mul"].input[1], 1.0)):
        set_constant(graph, name, lambda old, value=value: np.full_like(old, value))


def zero_a_layer(graph: onnx.GraphProto) -> None:
    set_constant(graph, weight_of(graph, 20), np.zeros_like)


def weight_of(graph: onnx.GraphProto, place: int) -> str:
    """The constant behind a convolution's weight, in INT8 too."""
    dequantized = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    name = [n for n in graph.node if n.op_type == "Conv"][place].input[1]
    return dequantized.get(name, name)


def set_constant(
    graph: onnx.GraphProto, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    (constant,) = [i for i in graph.initializer if i.name == name]
    constant.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(constant)), name))


def edited(bundle: Path, out: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """A copy with another graph, hashes made to fit: as a tool would leave it that changed the model."""
    copied(bundle, out)
    path = load_bundle(out).model_path
    model = onnx.load(path)
    change(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    record = json.loads((out / "bundle.json").read_text())
    record["files"][path.name] = sha256_file(path)
    (out / "bundle.json").write_text(json.dumps(record))
    return out


KINDS = [("tensorrt", "fp16"), ("tensorrt", "int8"), ("cpu", "int8")]
SABOTAGES = [swap_classes, swap_channels, drop_normalisation, zero_a_layer]


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_a_bundle_that_says_something_else_fails(
    sabotage: Callable[[onnx.GraphProto], None], example_bundle: Path, tmp_path: Path
) -> None:
    bundle = edited(example_bundle, tmp_path / "bundle", sabotage)
    result = CliRunner().invoke(main, ["verify", str(bundle)])
    assert result.exit_code == 3, result.output
    assert "verification failed at labels" in result.stderr
    with pytest.raises(GateFailed):
        build_engine(load_bundle(bundle), tmp_path / "engine.ov.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"bundle"}


@pytest.mark.parametrize("sabotage", SABOTAGES)
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_quantized_bundle_that_says_something_else_fails(
    kind: tuple[str, str],
    sabotage: Callable[[onnx.GraphProto], None],
    quantized: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    bundle = edited(quantized(*kind), tmp_path / "bundle", sabotage)
    result = CliRunner().invoke(main, ["verify", str(bundle)])
    assert result.exit_code == 3, result.output
    assert "verification failed at labels" in result.stderr


def overflow_in_half(graph: onnx.GraphProto) -> None:
    """Embeddings so long that FP16 does not hold them; the head takes cosines, so FP32 does not mind."""
    (last,) = [node for node in graph.node if node.name == "decoder.4/Conv_2"]
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    largest = max(float(np.abs(constants[name]).max()) for name in last.input[1:])
    factor = 2.0 ** np.floor(np.log2(60000 / largest))  # of two, so that no weight is rounded anew
    for name in last.input[1:]:
        set_constant(graph, name, lambda old: (old * factor).astype(old.dtype))
        (constant,) = [i for i in graph.initializer if i.name == name]
        assert np.isfinite(
            numpy_helper.to_array(constant)
        ).all()  # the weights fit, the sums do not


def test_an_overflow_in_fp16_fails_where_fp16_is_computed(
    quantized: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """A graph that rounds stands for a GPU: a CPU computes FP16 in FP32, and sees no overflow."""
    whole = quantized("tensorrt", "fp16")
    forged = edited(whole, tmp_path / "bundle", overflow_in_half)
    found = {}
    for name, path in (("whole", whole), ("forged", forged)):
        bundle, rounded = load_bundle(path), tmp_path / f"{name}.onnx"
        model = load_model(bundle.model_path)
        assert round_as_fp16(model.graph) > 100
        save_model(model, rounded)
        gpu = OnnxRuntimeBackend(rounded, reference=True)  # else it leaves the rounding out
        found[name] = verify(gpu, load_golden(bundle.golden_path), bundle.vocabulary.names)
    found["whole"].require(where=whole)
    told = r"at labels: .* all that differ are of class 0, as where values overflow"
    with pytest.raises(GateFailed, match=told) as raised:
        found["forged"].require(where=forged)
    assert raised.value.exit_code == 3


def test_logits_that_are_not_finite_are_named_before_the_labels_they_spoil() -> None:
    class Overflowing(FakeBackend):
        def infer(self, arrays: object) -> object:  # type: ignore[override]
            logits = np.full((1, CLASSES, 16, 16), np.nan, np.float32)
            return {"labels": np.zeros((1, 64, 64), np.uint8), "logits": logits}

    backend = Overflowing(64, 64, logits=True)
    with pytest.raises(
        GateFailed, match=r"at finite: \d+ logits are not, as where values overflow"
    ):
        verify(backend, golden(), NAMES).require(where="here")


def test_int8_is_allowed_what_rounding_its_fp16_tensors_moves_and_half_a_point() -> None:
    def agreeing(wrong: int, precision: str, agreement: float | None) -> bool:
        answer = golden()
        reference = answer.labels.copy()
        reference.reshape(-1)[:wrong] = (reference.reshape(-1)[:wrong] + 1) % CLASSES
        own = replace(answer, reference=reference, precision=precision, agreement=agreement)
        checks = verify(FakeBackend(64, 64), own, NAMES).checks
        return next(one.passed for one in checks if one.name == "labels")

    pixels = 3 * 64 * 64
    assert agreeing(pixels // 101, "int8", None)
    assert not agreeing(pixels // 99, "int8", None)
    assert not agreeing(
        pixels // 99, "int8", 1.0
    )  # never stricter than 0.99, nor less without need
    assert agreeing(pixels // 101, "int8", 1.0)
    assert agreeing(int(0.0149 * pixels), "int8", 0.99)
    assert not agreeing(int(0.0151 * pixels), "int8", 0.99)
    assert not agreeing(int(0.0021 * pixels), "fp16", 0.99)


@pytest.mark.parametrize("kind", [(), *KINDS], ids="-".join)
@pytest.mark.faults
def test_an_edited_bundle_fails_and_the_untouched_one_passes(
    kind: tuple[str, ...],
    example_bundle: Path,
    quantized: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    untouched = quantized(*kind) if kind else example_bundle
    whole = CliRunner().invoke(main, ["verify", str(untouched), "--json"])
    assert whole.exit_code == 0
    assert json.loads(whole.stdout)["passed"]
    for name in (load_bundle(untouched).model_path.name, "golden.npz"):
        bundle = tmp_path / name
        shutil.copytree(untouched, bundle)
        (bundle / name).write_bytes((bundle / name).read_bytes() + b"\n")
        result = CliRunner().invoke(main, ["verify", str(bundle)])
        assert result.exit_code == 3
        assert f"{name} is not the file" in result.stderr
        assert f"segclip-deploy {'quantize' if kind else 'export'}" in result.stderr


def golden() -> Golden:
    tiles = np.stack([random_frame(64, 64, seed).pixels for seed in (1, 2, 3)])
    return Golden(tiles, classes_of(tiles), np.zeros((3, CLASSES, 16, 16), np.float32))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_slot_of_a_batch_is_checked(batch: int) -> None:
    backend = FakeBackend(64, 64, batch)
    assert verify(backend, golden(), NAMES).passed

    class LastSlotWrong(FakeBackend):
        def infer(self, arrays: object) -> object:  # type: ignore[override]
            outputs = super().infer(arrays)  # type: ignore[arg-type]
            outputs["labels"][-1] = 0
            return outputs

    assert not verify(LastSlotWrong(64, 64, batch), golden(), NAMES).passed


class Drifting(FakeBackend):
    """One pixel differs between two calls: too few for the label check, enough for this one."""

    calls = 0

    def infer(self, arrays: object) -> object:  # type: ignore[override]
        outputs = super().infer(arrays)  # type: ignore[arg-type]
        self.calls += 1
        outputs["labels"][0, 0, 0] ^= self.calls == 1
        return outputs


class Broken(FakeBackend):
    """A logit that is not a number, while all labels are right."""

    def infer(self, arrays: object) -> object:  # type: ignore[override]
        image = arrays["image"]  # type: ignore[index]
        logits = np.zeros((1, CLASSES, 16, 16), np.float32)
        logits[0, 0, 3, 3] = np.nan
        return {"labels": classes_of(image), "logits": logits}


@pytest.mark.parametrize(("backend", "name"), [(Drifting, "repeats"), (Broken, "finite")])
def test_what_labels_do_not_show_is_checked_too(backend: type[FakeBackend], name: str) -> None:
    verification = verify(backend(64, 64), golden(), NAMES)
    failed = [c.name for c in verification.checks if not c.passed]
    assert name in failed
    assert "labels" not in failed
    with pytest.raises(GateFailed, match="verification failed at"):
        verification.require(where="here")


def test_flips_are_counted_by_class() -> None:
    answer = golden()
    answer.labels[0, :2, :5] = (answer.labels[0, :2, :5] + 1) % CLASSES
    found: Verification = verify(FakeBackend(64, 64), answer, NAMES)
    assert sum(found.flips.values()) == 10
    assert not found.passed


def test_golden_tiles_are_real_and_of_the_input_size(example_bundle: Path) -> None:
    stored = load_golden(load_bundle(example_bundle).golden_path)
    assert stored.tiles.shape == (2, 512, 512, 3)
    assert stored.logits.shape == (2, 5, 128, 128)
    assert len(np.unique(stored.labels)) >= 4

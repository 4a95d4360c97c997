from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.artifacts.bundle_record import Parity
from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.artifacts.scheme import Precision, Scheme
from segclip_deploy.calibration.ranges import METHODS, Histogram
from segclip_deploy.calibration.table import GraphStatistics
from segclip_deploy.errors import BadArtifact, BadInput, GateFailed, StaleArtifact
from segclip_deploy.export import parity
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.fold import FoldedSegCLIP, fold
from segclip_deploy.export.graph import ConstantText, DeployGraph, ExportGraph, normalise
from segclip_deploy.export.onnx import OPSET, drop_output, write_onnx
from segclip_deploy.export.onnx_model import load_model, observer, save_model
from segclip_deploy.export.parity import sqnr
from segclip_deploy.export.text_weights import text_constants
from segclip_deploy.export.torch_backend import TorchBackend
from segclip_deploy.model.checkpoint import build_model, load_checkpoint
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.quantization.fp16_emulation import round_as_fp16
from segclip_deploy.quantization.placement import find_probes, place
from segclip_deploy.quantization.precision import write_precision
from segclip_deploy.quantization.qdq import write_qdq
from segclip_deploy.quantization.smooth import find_norms, smooth_graph
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend
from segclip_deploy.runtime.verify import MAX_LOGIT_ERROR, MIN_AGREEMENT
from tests.support.fakes import random_bank


def reference(checkpoint_path: Path, spec: InputSpec) -> TorchBackend:
    c = load_checkpoint(checkpoint_path)
    network = ConstantText(build_model(c), c.bank)
    graph = DeployGraph(network, c.spec.mean, c.spec.std, logits=True)
    return TorchBackend(graph, spec, c.spec.classes)


def test_normalisation_is_the_usual_one() -> None:
    pixels = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (pixels.numpy() / 255.0 - mean) / std
    got = normalise(pixels, mean, std).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 5, 16, 24), (3, 2, 1, 1), (2, 19, 7, 3), (1, 1, 4, 4)])
def test_labels_by_phases_are_those_of_upsampling(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    logits, other = 30 * torch.randn(shape), (torch.nn.Identity(), (0.5,) * 3, (0.5,) * 3)
    expected = DeployGraph(*other, logits=False).label(logits)
    got = ExportGraph(*other, logits=False).label(logits)
    full = torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")
    best = full.topk(min(2, shape[1]), dim=1).values
    tied = (best[:, 0] - best[:, -1]) < 1e-4 if shape[1] > 1 else torch.zeros_like(got, dtype=bool)
    assert torch.equal(got[~tied], expected[~tied])
    assert tied.float().mean() < 0.01


def test_the_graph_keeps_its_contract(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    model = onnx.load(bundle.model_path)
    types = {
        v.name: (v.type.tensor_type.elem_type, [d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in [*model.graph.input, *model.graph.output]
    }
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    assert types == {
        "image": (uint8, [1, 64, 96, 3]),
        "labels": (uint8, [1, 64, 96]),
        "logits": (float32, [1, 5, 16, 24]),
    }
    assert model.opset_import[0].version == OPSET
    assert model.ir_version <= 10
    (first,) = [n for n in model.graph.node if "image" in n.input]
    assert first.op_type == "Cast"  # TensorRT has no transpose of uint8
    assert not list(tiny_bundle.glob("*.data"))
    record = json.loads((tiny_bundle / "bundle.json").read_text())
    assert record["parity"][0]["max_logit_error"] <= MAX_LOGIT_ERROR
    assert record["parents"]["checkpoint"]


@pytest.mark.parametrize("open_backend", [OnnxRuntimeBackend, OpenVinoBackend])
def test_engines_agree_with_pytorch(
    tiny_bundle: Path, tiny_checkpoint: Path, open_backend: type[OnnxRuntimeBackend]
) -> None:
    bundle = load_bundle(tiny_bundle)
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    expected = reference(tiny_checkpoint, bundle.input).infer({"image": image})
    backend: Backend = open_backend(bundle.model_path, threads=1)
    got = backend.infer({"image": image})
    assert np.abs(got["logits"] - expected["logits"]).max() <= MAX_LOGIT_ERROR
    assert (got["labels"] == expected["labels"]).mean() >= MIN_AGREEMENT["fp32"]
    kept = got["labels"]
    assert backend.infer({"image": 255 - image})["labels"] is kept  # buffers are reused
    with pytest.raises(ValueError, match="image is"):
        backend.infer({"image": image[:, :32]})
    backend.close()


@pytest.fixture(
    scope="module",
    params=["open_clip:RN50", pytest.param("open_clip:ViT-B-16", marks=pytest.mark.long)],
)
def clip_export(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TorchBackend, FoldedSegCLIP, Path]:
    """A model on a CLIP encoder with random weights, in PyTorch, folded, and exported."""
    torch.manual_seed(0)
    spec = ModelSpec(classes=5, text_width=16, encoder=request.param, width=64)
    model, bank = SegCLIP(spec).eval(), random_bank(1)
    size, path = InputSpec(64, 96, batch=2), tmp_path_factory.mktemp("clip") / "model.onnx"
    folded = fold(model, bank, 32, 32)  # with few pixels, so that both forms of a level occur
    graph = ExportGraph(folded, spec.mean, spec.std, logits=True)
    write_onnx(graph.eval(), size, path, text=text_constants(folded.text, bank))
    plain = DeployGraph(ConstantText(model, bank), spec.mean, spec.std, logits=True)
    return TorchBackend(plain, size, 5), folded, path


def test_clip_encoders_export_and_match_by_logits(
    clip_export: tuple[TorchBackend, FoldedSegCLIP, Path],
) -> None:
    backend, _, path = clip_export
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    expected = backend.infer({"image": images})["logits"]
    got = OnnxRuntimeBackend(path).infer({"image": images})["logits"]
    # Untrained logits are nearly flat: judged by error, not by label.
    assert np.abs(got - expected).max() <= MAX_LOGIT_ERROR


def test_every_form_of_a_block_keeps_its_text_and_computes_nothing_from_it(
    clip_export: tuple[TorchBackend, FoldedSegCLIP, Path],
) -> None:
    _, folded, path = clip_export
    assert folded.text.blocks == {"cff.8": True, "cff.16": False, "cff.32": False, "refiner": True}
    model = onnx.load(path)
    constants = {i.name for i in model.graph.initializer}
    expected = text_constants(folded.text, random_bank(1))
    assert {name for name in constants if name.startswith("text.")} == expected.keys()
    for node in model.graph.node:
        assert not constants.issuperset(filter(None, node.input)), node.name


def test_clip_encoders_parse_in_tensorrt_rtx(
    clip_export: tuple[TorchBackend, FoldedSegCLIP, Path],
) -> None:
    assert parser_errors(clip_export[-1]) == []


def test_clip_encoders_take_precision(
    clip_export: tuple[TorchBackend, FoldedSegCLIP, Path], tmp_path: Path
) -> None:
    """INT8 wherever it can be and FP16 beside it: untrained, so judged by signal to noise."""
    image = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    expected = OnnxRuntimeBackend(clip_export[-1]).infer({"image": image})["logits"]
    graph = load_model(clip_export[-1])
    names = find_probes(graph.graph).tensors
    seen = {name: Histogram() for name in names}
    for name, values in zip(names, observer(graph, names)(image), strict=True):
        seen[name].add(values)
    ranges = {name: METHODS["minmax"](histogram) for name, histogram in seen.items()}
    measured = GraphStatistics(ranges)
    model, path = load_model(clip_export[-1]), tmp_path / "int8.onnx"
    blocks: dict[str, Precision] = {block_of(node.name): "int8" for node in model.graph}
    plan = PrecisionPlan(Scheme.TENSORRT, "", {**blocks, "graph": "fp32"})
    placement = place(model.graph, plan.scheme, plan.int8)
    assert len(write_precision(model, plan, placement, measured, {}).int8) > 50
    save_model(model, path)
    assert parser_errors(path) == []
    assert round_as_fp16(model.graph) > 100
    save_model(model, path)
    got = OnnxRuntimeBackend(path, reference=True).infer({"image": image})["logits"]
    assert sqnr(expected, got) > 25


@pytest.mark.long
def test_a_vit_with_loud_channels_bears_int8_better_once_it_is_smoothed(
    clip_export: tuple[TorchBackend, FoldedSegCLIP, Path], tmp_path: Path
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    plain, smoothed = load_model(clip_export[-1]), load_model(clip_export[-1])
    norms = find_norms(plain.graph)
    if clip_export[1].encoder.channels[-1] != 768:  # RN50
        assert norms == {}
        return
    assert len(norms) == 24  # two to a layer
    rng, gains = np.random.default_rng(0), {}
    for name in norms:  # trained ViTs have such channels, random ones have not
        gains[name] = np.ones(768, np.float32)
        gains[name][rng.choice(768, 6, replace=False)] = 30
    for model in (plain, smoothed):
        for node in model.graph:
            if (gain := gains.get(node.outputs[0].name)) is not None:
                value = ir.Value(
                    name=f"{node.outputs[0].name}.outlier",
                    type=node.inputs[1].type,
                    shape=node.inputs[1].shape,
                    const_value=ir.tensor(gain),
                )
                model.graph.register_initializer(value)
                node.replace_input_with(1, value)
    outliers = tmp_path / "outliers.onnx"
    save_model(plain, outliers)
    expected = logits_of(plain, image, outliers)
    seen = observer(load_model(outliers), list(norms))(image)
    peaks = {n: np.abs(values).max((0, 1)) for n, values in zip(norms, seen, strict=True)}
    smooth_graph(smoothed.graph, peaks, 0.5)
    path = tmp_path / "smoothed.onnx"
    assert np.abs(logits_of(smoothed, image, path) - expected).max() <= 1e-4
    noise = [sqnr(expected, in_int8(file, image, tmp_path)) for file in (outliers, path)]
    assert noise[1] > noise[0] + 6


def logits_of(model: Any, image: Any, path: Path) -> Any:
    save_model(model, path)
    return OnnxRuntimeBackend(path, reference=True).infer({"image": image})["logits"].copy()


def in_int8(path: Path, image: Any, folder: Path) -> Any:
    """Logits with everything in INT8 that can be, and the ranges of these images."""
    model = load_model(path)
    names = find_probes(model.graph).tensors
    ranges = {}
    for name, values in zip(names, observer(load_model(path), names)(image), strict=True):
        seen = Histogram()
        seen.add(values)
        ranges[name] = METHODS["minmax"](seen)
    placement = place(model.graph, Scheme.TENSORRT, lambda _: True)
    write_qdq(model.graph, placement, ranges, Scheme.TENSORRT)
    return logits_of(model, image, folder / "int8.onnx")


@pytest.mark.parametrize("bundle", ["tiny_bundle", "example_bundle"])
def test_bundles_parse_in_tensorrt_rtx(bundle: str, request: pytest.FixtureRequest) -> None:
    assert parser_errors(request.getfixturevalue(bundle) / "model.onnx") == []


def parser_errors(path: Path) -> list[str]:
    """What NVIDIA's own parser objects to; it needs no GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    assert parsed == (not errors)
    return errors


def test_dropping_the_logits_leaves_the_labels_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.onnx"
    path.write_bytes((tiny_bundle / "model.onnx").read_bytes())
    drop_output(path, "logits")
    image = np.random.default_rng(2).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    both = OnnxRuntimeBackend(tiny_bundle / "model.onnx").infer({"image": image})
    (name,) = alone = OnnxRuntimeBackend(path).infer({"image": image})
    assert name == "labels"
    np.testing.assert_array_equal(alone["labels"], both["labels"])


def test_an_export_that_fails_parity_writes_nothing_and_keeps_the_old(
    tiny_checkpoint: Path, open_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "bundle.json").write_text("{}")

    def mixed_up(graph: DeployGraph, spec: InputSpec, path: Path, **names: Any) -> None:
        # The same model with other texts.
        shutil.copyfile(open_bundle / "model.onnx", path)

    monkeypatch.setattr("segclip_deploy.export.export.write_onnx", mixed_up)
    with pytest.raises(GateFailed, match=r"ONNX Runtime .* differs .* nothing was written"):
        export_bundle(tiny_checkpoint, out, spec=InputSpec(height=64, width=96))
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    assert (out / "bundle.json").read_text() == "{}"


def test_not_a_number_fails_parity() -> None:
    measured = Parity("a", "b", 1, float("nan"), 0.0, 1.0, {})
    with pytest.raises(GateFailed):
        parity.check_parity(measured)


def test_export_refuses_odd_sizes_and_missing_tiles(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from segclip_deploy.model.checkpoint import no_examples, save_checkpoint

    with pytest.raises(BadInput, match="multiples of 32"):
        export_bundle(tiny_checkpoint, tmp_path / "b", spec=InputSpec(height=100, width=64))
    bare = tmp_path / "bare.safetensors"
    save_checkpoint(bare, replace(load_checkpoint(tiny_checkpoint), examples=no_examples()))
    with pytest.raises(BadInput, match="--tiles"):
        export_bundle(bare, tmp_path / "b", spec=InputSpec(height=64, width=64))


@pytest.mark.parametrize("name", ["e.ov.onnx", "e.ort.onnx"])
@pytest.mark.faults
def test_an_engine_knows_its_bundle_and_notices_edits(
    tiny_bundle: Path, tmp_path: Path, name: str
) -> None:
    engine = build_engine(load_bundle(tiny_bundle), tmp_path / name)
    assert load_engine(engine.path).vocabulary == load_bundle(tiny_bundle).vocabulary
    with open_segmenter(engine.path) as segmenter:
        assert segmenter.blends
    engine.path.write_bytes(engine.path.read_bytes() + b" ")
    with pytest.raises(StaleArtifact, match="build-engine"):
        load_engine(engine.path)
    with pytest.raises(BadArtifact, match="not an engine"):
        open_segmenter(tmp_path / "absent.ov.onnx")
    with pytest.raises(BadInput, match=r"NAME\.ov\.onnx"):
        build_engine(load_bundle(tiny_bundle), tmp_path / "engine.bin")

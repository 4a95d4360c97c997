"""Probes are the layers of a place, at a width; a board times them without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.latency_table import LATENCY_TABLE, PROBES, PROBES_FILE
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadInput
from segclip_deploy.model.checkpoint import build_model, load_checkpoint
from segclip_deploy.runtime.profiling.time_probes import time_probes
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.tensorrt.builder import build_plan
from segclip_deploy.training.probe_networks import write_probes
from segclip_deploy.training.prunable import find_prunable_channels
from tests.support.helpers import call
from tests.training.test_prunable import model_of

pytest.importorskip("torch_pruning")


pytestmark = pytest.mark.long
"""Probes of a whole network take half a minute to write."""


@pytest.fixture(scope="module")
def probes(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = load_checkpoint(tiny_checkpoint)
    model, spec = build_model(checkpoint), InputSpec(height=64, width=96)
    out = tmp_path_factory.mktemp("probes") / "probes"
    places = find_prunable_channels(model, spec.height, spec.width)
    write_probes(model, checkpoint.bank, places, spec, out, checkpoint="0" * 64, scheme=Scheme.CPU)
    return out


def test_a_probe_has_the_layers_of_its_place_at_its_width(probes: Path) -> None:
    record = PROBES.read(probes / PROBES_FILE, fix="")
    found = {(p.layer, p.width): probes / p.file for p in record.probes}
    widths = [w for name, w in found if name == "encoder.body.blocks.3.0.conv_pw"]
    assert widths == [128, 96, 64, 32]
    graph = onnx.load(found["encoder.body.blocks.3.0.conv_pw", 64]).graph
    shapes = [tuple(i.dims) for i in graph.initializer if len(i.dims) == 4]
    assert shapes == [(64, 32, 1, 1), (64, 1, 3, 3), (48, 64, 1, 1)]
    assert [n.op_type for n in graph.node] == ["Conv", "Relu", "Conv", "Relu", "Conv"]
    with OnnxRuntimeBackend(found["encoder.body.blocks.3.0.conv_pw", 64]) as backend:
        (taken,), (given,) = backend.inputs, backend.outputs
        assert (taken.shape, given.shape) == ((1, 32, 8, 12), (1, 48, 4, 6))


def test_a_width_of_the_decoder_is_probed_as_a_whole_network(probes: Path) -> None:
    record = PROBES.read(probes / PROBES_FILE, fix="")
    found = {p.width: p.file for p in record.probes if p.layer == "decoder"}
    assert list(found) == [32, 24, 16, 8]
    assert found[32] == record.network
    graph = onnx.load(probes / found[8]).graph
    assert (8, 8, 3, 3) in {tuple(i.dims) for i in graph.initializer}


def test_the_whole_network_is_among_them(probes: Path, tiny_bundle: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    with (
        OnnxRuntimeBackend(probes / "network.onnx") as probe,
        OnnxRuntimeBackend(tiny_bundle / "model.onnx") as whole,
    ):
        np.testing.assert_array_equal(
            probe.infer({"image": image})["labels"], whole.infer({"image": image})["labels"]
        )


@pytest.mark.parametrize("encoder", ["timm:convnext_atto", "open_clip:RN50", "open_clip:ViT-B-16"])
def test_every_kind_of_layer_runs(encoder: str, tmp_path: Path) -> None:
    """A probe's output has the shape of what the next block reads, pooling and heads and all."""
    from tests.support.fakes import random_bank

    model, spec, bank = model_of(encoder), InputSpec(height=64, width=64), random_bank(0)
    places = find_prunable_channels(model, 64, 64)
    record = write_probes(
        model, bank, places, spec, tmp_path / "p", checkpoint="0" * 64, scheme=Scheme.CPU
    )
    for place, probe in {p.layer: p for p in record.probes if p.layer != "decoder"}.items():
        layer = model.get_submodule(next(x for x in places if x.name == place).layers[-1])
        with OnnxRuntimeBackend(tmp_path / "p" / probe.file) as backend:
            (taken,) = backend.inputs
            backend.infer({taken.name: np.zeros(taken.shape, taken.dtype)})
            channels = {
                getattr(layer, n, None) for n in ("out_channels", "out_features", "embed_dim")
            }
            assert channels & set(backend.outputs[0].shape)


def test_profile_times_probes_without_torch_and_onnx(probes: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'timm')))\n"
        "from segclip_deploy import api\n"
        f"api.profile({str(probes)!r}, out={str(tmp_path)!r}, target='onnxruntime')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    table = LATENCY_TABLE.read(tmp_path / "latency.json", fix="")
    assert (table.target, table.window) == ("onnxruntime", (64, 96))
    assert table.network_ms > 0
    assert list(table.layers) == list(
        dict.fromkeys(p.layer for p in PROBES.read(probes / PROBES_FILE, fix="").probes)
    )


def test_profile_of_probes_prints_the_table(probes: Path, tmp_path: Path) -> None:
    result = call("profile", probes, "--target", "onnxruntime", "-o", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["target"] == "onnxruntime"
    result = call("profile", probes, "--target", "onnxruntime")
    assert "encoder.body.conv_stem" in result.stdout
    assert "ms at 24" in result.stdout


def test_probes_of_other_targets_are_refused_with_the_command_that_writes_theirs(
    probes: Path,
) -> None:
    with pytest.raises(BadInput) as refused:
        time_probes(probes, "tensorrt")
    assert refused.value.what == "these probes are for openvino and onnxruntime"
    assert str(refused.value.fix).endswith("compact CKPT --probes DIR --target tensorrt")


@pytest.mark.parametrize("encoder", ["timm:tf_efficientnet_lite0", "open_clip:ViT-B-16"])
def test_probes_for_tensorrt_are_fp16_and_its_builder_takes_them(
    encoder: str, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from tests.support.fakes import random_bank

    model, spec, bank = model_of(encoder), InputSpec(height=64, width=64), random_bank(0)
    places = find_prunable_channels(model, 64, 64)[:2]  # of a ViT: the heads and the MLP of a block
    out = tmp_path / "p"
    record = write_probes(
        model, bank, places, spec, out, checkpoint="0" * 64, scheme=Scheme.TENSORRT
    )
    assert all(probe.width % 16 == 0 for probe in record.probes)
    whole = [] if "ViT" in encoder else [record.network]  # which takes the builder a minute
    for name in [*whole, *(probe.file for probe in record.probes)]:
        weights = [one for one in onnx.load(out / name).graph.initializer if len(one.dims) > 1]
        assert onnx.TensorProto.FLOAT16 in {one.data_type for one in weights}
        options = BuildOptions(compute_capability=("86",))
        assert build_plan(trt, out / name, options, batches=range(1, 2)).data.nbytes > 0

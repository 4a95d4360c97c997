"""What needs no TensorRT: names, layers, compatibility, the timing cache's file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from segclip_deploy.artifacts.engine_record import GpuDevice, TimingCacheUse
from segclip_deploy.artifacts.onnx_file import initializer_names, makers
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadArtifact, StaleArtifact
from segclip_deploy.runtime.targets.tensorrt.compatibility import differences, slower_or_faster
from segclip_deploy.runtime.targets.tensorrt.inspector import by_block, engine_layers
from segclip_deploy.runtime.targets.tensorrt.timing_cache import TimingCache, default_path

KEY = {
    "gpu": "Orin",
    "board": "NVIDIA Jetson AGX Orin",
    "multiprocessors": "16",
    "power_mode": "30W",
    "driver": "540.4.0",
    "library": "TensorRT 10.3.0",
}


def test_initializers_are_named_as_onnx_names_them(tiny_bundle: Path) -> None:
    path = tiny_bundle / "model.onnx"
    names = initializer_names(path)
    assert names == [one.name for one in onnx.load(path).graph.initializer]
    assert any(name.startswith("text.cff.16.") for name in names)
    nodes = onnx.load(path).graph.node
    assert makers(path) == {output: node.name for node in nodes for output in node.output}


@given(
    st.lists(st.text(max_size=300), max_size=8), st.text(max_size=200), st.integers(0, 2**63 - 1)
)
def test_initializers_are_found_in_any_model(names: list[str], text: str, version: int) -> None:
    weights = [numpy_helper.from_array(np.zeros(3, np.float32), name) for name in names]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], text, [], [], weights)
    model = helper.make_model(graph, producer_name=text, model_version=version)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        # Protobuf leaves out a name that is empty.
        assert initializer_names(path) == [name for name in names if name]


def tensor(kind: str | None, layout: str) -> dict[str, Any]:
    """A layer's input or output as the inspector of TensorRT 10, late 10 or 11 writes it."""
    if layout == "10":
        return {"Name": "t", "Format/Datatype": f"Row major linear {kind or 'unknown'} format"}
    if layout == "11":
        return {"Name": "t", "Format": "LINEAR", "Datatype": kind}
    return {"Name": "t", "Format/Datatype": kind or "N/A due to dynamic shapes"}


@pytest.mark.parametrize(
    ("layout", "spelled"),
    [
        ("10", ["FP16", "Int8", "FP32", "UInt8", "BF16", None]),
        ("word", ["Half", "Int8", "Float", "UInt8", "BFloat16", None]),
        ("11", ["FP16", "INT8", "FP32", "UINT8", "BF16", None]),
    ],
)
def test_layers_are_read_from_both_inspectors(layout: str, spelled: list[str | None]) -> None:
    half, int8, single, uint8, bf16, unknown = (tensor(kind, layout) for kind in spelled)

    def layer(name: str, reads: list[Any], writes: list[Any], *nodes: str) -> dict[str, Any]:
        between = {"10": "\x1e", "word": "", "11": "\x1f"}[layout]  # as versions separate them
        metadata = between.join(f"[ONNX Layer: {node}]" for node in nodes)
        return {
            "Name": name,
            "LayerType": "x",
            "Inputs": reads,
            "Outputs": writes,
            "Metadata": metadata,
        }

    ends = {"I/O Tensors": [{"Name": "image"}]} if layout == "11" else {"Bindings": ["image"]}
    layers = engine_layers(
        json.dumps(
            {
                "Layers": [
                    layer("a", [uint8], [half], "graph/Cast"),
                    layer("b", [int8, half], [half], "cff.16/Conv", "cff.16/Add", "decoder/Add"),
                    layer("c", [half], [single], "cff.16/Softmax"),
                    layer("d", [unknown], [bf16], "head/Mul"),
                    layer("e", [half], [half]),
                ],
                **ends,
            }
        )
    )
    assert layers is not None
    assert [one.reads for one in layers] == [
        ("uint8",),
        ("int8", "fp16"),
        ("fp16",),
        (None,),
        ("fp16",),
    ]
    assert [one.writes[0] for one in layers] == ["fp16", "fp16", "fp32", "bf16", "fp16"]
    assert layers[1].blocks == ("cff.16", "decoder")
    assert layers[1].nodes == ("cff.16/Conv", "cff.16/Add", "decoder/Add")
    assert layers[4].nodes == ()
    # A type that is not told is not counted, and bookkeeping without a node belongs to no block.
    assert by_block(layers) == {"cff.16": {"int8": 1, "fp16": 1}}


@pytest.mark.parametrize("information", ['{"Layers": ["conv", "relu"]}', '{"Layers": []}', "{}"])
def test_layers_without_detail_are_none(information: str) -> None:
    assert engine_layers(information) is None


def device(gpu: str | None, capabilities: tuple[str, ...], library: str) -> GpuDevice:
    return GpuDevice(
        gpu=gpu, compute_capability=capabilities, driver=None, cuda=None, library=library
    )


BUILT = device("Orin", ("8.7",), "TensorRT 10.3.0")
AHEAD = device(None, ("8.6", "12.0"), "TensorRT-RTX 1.7.1")


@pytest.mark.parametrize(
    ("built", "arguments", "here", "fields"),
    [
        (BUILT, [], {}, []),
        (
            BUILT,
            [],
            {"gpu": "Thor", "compute_capability": ("11.0",)},
            ["GPU", "compute capability"],
        ),
        (BUILT, [], {"library": "TensorRT 10.13.3"}, ["library"]),
        (BUILT, ["--version-compatible"], {"library": "TensorRT 10.13.3"}, []),
        (BUILT, ["--version-compatible"], {"library": "TensorRT 10.0.1"}, ["library"]),
        (BUILT, ["--version-compatible"], {"library": "TensorRT 11.4.1"}, ["library"]),
        (
            BUILT,
            ["--hardware-compatibility", "ampere-plus"],
            {"gpu": "A", "compute_capability": ("8.9",)},
            [],
        ),
        (
            BUILT,
            ["--hardware-compatibility", "ampere-plus"],
            {"gpu": "A", "compute_capability": ("7.5",)},
            ["compute capability"],
        ),
        (
            BUILT,
            ["--hardware-compatibility", "same-compute-capability"],
            {"gpu": "A", "compute_capability": ("8.9",)},
            ["compute capability"],
        ),
        (
            AHEAD,
            [],
            {"library": AHEAD.library, "gpu": "RTX", "compute_capability": ("12.0",)},
            [],
        ),
        (
            AHEAD,
            [],
            {"library": AHEAD.library, "compute_capability": ("8.9",)},
            ["compute capability"],
        ),
    ],
)
def test_what_differs_is_named_field_by_field(
    built: GpuDevice, arguments: list[str], here: dict[str, Any], fields: list[str]
) -> None:
    found = differences(built, replace(BUILT, **here), arguments)
    assert [phrase.partition(" is ")[0] for phrase in found] == fields


NX = replace(BUILT, board="NVIDIA Jetson Orin NX", multiprocessors=8, power_mode="25W")
AGX = replace(BUILT, board="NVIDIA Jetson AGX Orin", multiprocessors=16, power_mode="25W")


@pytest.mark.parametrize(
    ("here", "arguments", "fields"),
    [
        (NX, [], ["board", "number of multiprocessors"]),
        (replace(AGX, multiprocessors=14), [], ["number of multiprocessors"]),
        (AGX, [], []),
        (NX, ["--hardware-compatibility", "ampere-plus"], []),
        (NX, ["--version-compatible"], ["board", "number of multiprocessors"]),
    ],
)
@pytest.mark.faults
def test_orins_that_cuda_calls_alike_are_told_apart(
    here: GpuDevice, arguments: list[str], fields: list[str]
) -> None:
    assert here.gpu == AGX.gpu == "Orin"
    found = differences(AGX, here, arguments)
    assert [phrase.partition(" is ")[0] for phrase in found] == fields


def test_only_another_power_mode_makes_an_engine_slower_or_faster() -> None:
    other = replace(AGX, power_mode="MAXN")
    assert slower_or_faster(AGX, other).startswith("power mode is MAXN here, 25W when")
    for here in (AGX, replace(AGX, power_mode=None)):
        assert slower_or_faster(AGX, here) is slower_or_faster(here, AGX) is None


def test_a_timing_cache_lies_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    name = "Orin-NVIDIA-Jetson-AGX-Orin-16-30W-540.4.0-TensorRT-10.3.0.timing"
    assert default_path(KEY) == Path("/there/segclip-deploy", name)
    desktop = {**KEY, "board": None, "power_mode": None}
    assert default_path(desktop).name == "Orin-16-540.4.0-TensorRT-10.3.0.timing"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/pilot")
    assert default_path(KEY) == Path("/home/pilot/.cache/segclip-deploy", name)


class Cache:
    """ITimingCache as a set of measurements."""

    def __init__(self, data: bytes) -> None:
        self.keys = set(data.decode().split())

    def queryKeys(self) -> list[str]:  # noqa: N802
        return sorted(self.keys)

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        self.keys |= other.keys
        return True

    def serialize(self) -> bytes:
        return " ".join(sorted(self.keys)).encode()


class Config:
    """IBuilderConfig, of which only the cache is asked."""

    def create_timing_cache(self, data: bytes) -> Cache:
        return Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache:
        return self.cache


@pytest.mark.faults
def test_two_builds_at_once_both_add_to_the_cache(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path / "new" / "c.timing", KEY)
    first, second = Config(), Config()
    assert cache.attach(None, first) == cache.attach(None, second) == 0  # type: ignore[arg-type]
    first.cache.keys |= {"a", "b"}
    second.cache.keys |= {"b", "c"}
    assert cache.store(first, 0) == TimingCacheUse(path=str(cache.path), known=0, new=2)
    assert cache.store(second, 0).new == 2
    third = Config()
    assert cache.attach(None, third) == 3  # type: ignore[arg-type]
    assert cache.store(third, 3).new == 0


@pytest.mark.parametrize("field", KEY)
@pytest.mark.faults
def test_a_timing_cache_from_elsewhere_is_never_used(field: str, tmp_path: Path) -> None:
    cache = TimingCache(tmp_path / "c.timing", KEY)
    config = Config()
    cache.attach(None, config)  # type: ignore[arg-type]
    cache.store(config, 0)
    other = TimingCache(cache.path, {**KEY, field: "another"})
    with pytest.raises(StaleArtifact, match=f"{field} is {KEY[field]}, here another") as caught:
        other.read()
    assert f"rm {cache.path}" in str(caught.value)
    cache.path.write_bytes(b"")
    with pytest.raises(BadArtifact, match="not a timing cache"):
        cache.read()

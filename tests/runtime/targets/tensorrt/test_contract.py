"""The package's calls of NVIDIA's libraries, against the bindings of each version."""

from __future__ import annotations

import pytest

from tests.support.contract import FOLDER, check, stubs_of

_13 = "cuda-bindings==13.5.0"
VERSIONS = {
    "10.3.0": ("tensorrt-cu12-bindings==10.3.0", "cuda-bindings==12.9.10"),  # JetPack 6
    "10.13": ("tensorrt-cu13-bindings==10.13.3.9", _13),  # JetPack 7.0
    "10.16": ("tensorrt-cu13-bindings==10.16.1.11", _13),  # JetPack 7.2
    "11.0": ("tensorrt-cu13-bindings==11.0.0.114", _13),
    "11.4": ("tensorrt-cu13-bindings==11.4.0.106", _13),  # JetPack 7.2.2
    "RTX": (),
}
OFTEN = ("10.3.0", "11.4", "RTX")
SEEN = {
    "tensorrt.OnnxParser",
    "BuilderFlag.TF32",
    "IBuilderConfig.set_flag",
    "IExecutionContext.execute_async_v3",
    "ILayer.get_output",
    "ITimingCache.combine",
    "Refitter.refit_cuda_engine",
    "ComputeCapability.__members__",
    "driver.cuGraphInstantiate",
}
"""Some of what must be looked up: where a value has become ``Any``, nothing is checked."""


@pytest.mark.parametrize(
    "version", [pytest.param(v, marks=() if v in OFTEN else pytest.mark.long) for v in VERSIONS]
)
def test_every_name_and_call_is_in_the_bindings(
    version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = check(stubs_of(VERSIONS[version]))
    with capsys.disabled():
        print(f"\n{len(checked.names)} names of TensorRT {version} checked")
    assert checked.errors == []
    assert checked.names >= SEEN


def test_a_name_or_call_that_a_version_lacks_is_an_error() -> None:
    text = {path.stem: path.read_text() for path in FOLDER.glob("*.py")}
    wrong = {
        # a method, a member of an enum that TensorRT 11 dropped, an argument, a class, a type
        "builder": {
            "config.set_flag(trt.BuilderFlag.GPU_FALLBACK)": (
                "config.set_quantization_flag(trt.BuilderFlag.FP16)"
            ),
            "profile.set_shape(image.name, low, high, high)": "profile.set_shape(image.name, low)",
            "parser = trt.OnnxParser(": "parser = trt.CaffeParser(",
        },
        "timing_cache": {"cache.combine(config.create": "cache.merge(config.create"},
        "cuda_graph": {"cuda.cuGraphInstantiate(graph, 0)": "cuda.cuGraphInstantiate(graph)"},
    }
    changed = {}
    for module, replacements in wrong.items():
        changed[module] = text[module]
        for right, other in replacements.items():
            assert right in changed[module]
            changed[module] = changed[module].replace(right, other)
    errors = check(stubs_of(VERSIONS["11.4"]), changed).errors
    for said in (
        "set_quantization_flag",
        '"FP16"',
        '"set_shape"',
        "CaffeParser",
        "merge",
        "cuda_graph.py",
    ):
        assert any(said in line for line in errors), (said, errors)

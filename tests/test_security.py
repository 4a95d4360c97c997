"""Nothing from outside is run, and nothing from outside leads out of where it was put (SECURITY.md)."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine, record_path
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.onnx_file import check_self_contained
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.model.text import load_text_bank
from segclip_deploy.runtime.build_engine import build_engine
from tests.conftest import ROOT
from tests.support.helpers import call, edited
from tests.tradeoff.test_benchmark import make_dataset

pytestmark = pytest.mark.faults

PACKAGE = ROOT / "segclip_deploy"


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(module, dotted name, call) of every call in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.stem, ast.unparse(node.func), node


def keywords(node: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def test_nothing_is_unpickled() -> None:
    seen = set()
    for module, name, node in calls():
        where = f"{module}: {ast.unparse(node)}"
        assert name.split(".")[0] not in ("pickle", "cPickle", "dill", "joblib", "shelve"), where
        if name == "np.load":
            assert keywords(node).get("allow_pickle") == "False", where
        elif name == "torch.load":
            assert keywords(node).get("weights_only") == "True", where
        elif name.startswith("yaml."):
            assert name in ("yaml.safe_load", "yaml.safe_dump"), where
        else:
            continue
        seen.add(name)
    assert {"np.load", "torch.load", "yaml.safe_load"} <= seen


def test_nothing_is_run_but_lists_of_arguments_and_no_archive_is_unpacked() -> None:
    runs = set()
    for module, name, node in calls():
        where = f"{module}: {ast.unparse(node)}"
        assert name not in ("os.system", "os.popen", "eval", "exec", "subprocess.getoutput"), where
        assert not name.endswith(("extractall", ".extract", "unpack_archive")), where
        if name.startswith("subprocess.") and name != "subprocess.TimeoutExpired":
            assert "shell" not in keywords(node), where
            assert not isinstance(node.args[0], (ast.Constant, ast.JoinedStr)), where
            runs.add(module)
    assert runs == {"device", "cold", "child_python", "mode_switch"}


def test_kernels_come_from_the_package_only() -> None:
    loaded = [
        ast.unparse(node.args[0])
        for _, name, node in calls()
        if name.endswith("module_from_buffer")
    ]
    assert loaded == ["ptx + b'\\x00'"]
    source = (PACKAGE / "runtime" / "targets" / "tensorrt" / "kernels.py").read_text()
    assert re.findall(r"ptx = (.*)", source) == [
        'files(__package__).joinpath("decode.ptx").read_bytes()'
    ]
    # Nothing is compiled in flight: NVRTC serves those alone who change the kernel.
    assert not any(name.endswith(("compiler.compile", "SourceModule")) for _, name, _ in calls())
    assert {module for module, name, _ in calls() if "nvrtc" in name} == {"make_ptx"}
    assert [p.name for p in PACKAGE.rglob("*.cu")] == ["decode.cu"]
    assert [p.name for p in PACKAGE.rglob("*.ptx")] == ["decode.ptx"]


def external(where: str, location: str) -> Callable[[onnx.ModelProto], object]:
    """Put a tensor that lies elsewhere into a part of a model."""

    def change(model: onnx.ModelProto) -> None:
        tensor = onnx.helper.make_tensor("secret", onnx.TensorProto.UINT8, [4], b"abcd", raw=True)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        inner = onnx.helper.make_graph([], "g", [], [], [tensor])
        if where == "initializer":
            model.graph.initializer.append(tensor)
        elif where == "constant":
            model.graph.node.append(onnx.helper.make_node("Constant", [], ["s"], value=tensor))
        elif where == "subgraph":
            model.graph.node.append(onnx.helper.make_node("If", ["c"], ["s"], then_branch=inner, else_branch=inner))  # fmt: skip
        else:
            node = onnx.helper.make_node("Constant", [], ["s"], value=tensor)
            model.functions.append(onnx.helper.make_function("d", "f", [], ["s"], [node], []))

    return change


@pytest.mark.parametrize("where", ["initializer", "constant", "subgraph", "function"])
@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd"])
def test_a_model_with_data_in_other_files_is_refused(
    where: str, location: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Also beside it: no hash covers that. Its record's hashes are made to fit, as an attacker would."""
    model = onnx.load(tiny_bundle / "model.onnx")
    external(where, location)(model)
    with pytest.raises(BadArtifact, match="'secret' lies in another file"):
        edited(tiny_bundle, tmp_path / "b", model)
    engine = tmp_path / "e.ort.onnx"
    build_engine(load_bundle(tiny_bundle), engine)
    shutil.copy(tmp_path / "b" / "model.onnx", engine)
    record = {**json.loads(record_path(engine).read_text()), "engine_sha256": sha256_file(engine)}
    record_path(engine).write_text(json.dumps(record))
    with pytest.raises(BadArtifact, match="'secret' lies in another file"):
        load_engine(engine)


def test_shipped_models_are_self_contained(tiny_bundle: Path) -> None:
    check_self_contained(tiny_bundle / "model.onnx")


@pytest.mark.parametrize(
    "name", ["../outside", "{tmp}/outside", "sub/../../outside", "", ".", "model.onnx/"]
)
def test_a_manifest_cannot_name_files_outside_its_bundle(
    name: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    (tmp_path / "outside").write_bytes(b"x")
    record = json.loads((path / "bundle.json").read_text())
    record["files"][name.format(tmp=tmp_path)] = sha256_file(tmp_path / "outside")
    (path / "bundle.json").write_text(json.dumps(record))
    with pytest.raises(BadArtifact, match="none of a bundle, or lies outside it"):
        load_bundle(path)


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.nvidia.onnx", "golden.npz", "text.safetensors"]
)
def test_a_link_cannot_lead_out_of_its_bundle(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    (path / name).replace(tmp_path / name)
    (path / name).symlink_to(tmp_path / name)
    with pytest.raises(BadArtifact, match="lies outside it"):
        load_bundle(path)
    (tmp_path / "link").symlink_to(tiny_bundle)  # the directory itself may be reached by one
    load_bundle(tmp_path / "link")


def test_arrays_that_are_pickles_are_refused_unopened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "run",)

    np.savez(tmp_path / "b.npz", classes=np.array([Trap()], object), texts=np.ones((5, 3, 16)))
    with pytest.raises(BadInput, match="not readable"):
        load_text_bank(str(tmp_path / "b.npz"), load_vocabulary("dubai"))
    (tmp_path / "v.yaml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path}/run']")
    with pytest.raises(BadInput, match="not YAML"):
        load_vocabulary(tmp_path / "v.yaml")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["export", "import"])
def test_model_says_that_it_runs_code(command: str, tmp_path: Path) -> None:
    assert "Its code is run" in re.sub(r"\s+", " ", call(command, "--help").stdout)
    rest = ("--spec", "s", "--vocabulary", "dubai", "--text", "t") if command == "import" else ()
    result = call(command, tmp_path / "c", "-o", tmp_path / "o", "--model", "no.such:thing", *rest)
    assert result.exit_code == 1
    assert "--model no.such:thing: this code is run" in result.stderr


def test_a_report_escapes_names_of_classes_engines_and_files(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """``<`` for HTML, ``$`` for the formulas of pictures."""
    trap = "<script>alert(1)</script>$x_{"
    vocabulary = load_vocabulary("dubai")
    classes = (replace(vocabulary.classes[0], name=trap), *vocabulary.classes[1:])
    named = replace(vocabulary, classes=classes, title=trap)
    bundle = tmp_path / "<script>$x_{$"
    edited(tiny_bundle, bundle, onnx.load(tiny_bundle / "model.onnx"), vocabulary=named.to_json())
    data, out = make_dataset(tmp_path / "data"), tmp_path / "report"
    result = call(
        *("benchmark", bundle, "--eval", data, "--calib", data, "-o", out, "--samples", 10),
        *("--target", "onnxruntime", "--precision", "int8", "--threads", 1),
    )
    assert result.exit_code == 0, result.output
    page = (out / "report.html").read_text()
    assert page.count("<script") == 0
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$x_{" in page
    assert "image&lt;" in page

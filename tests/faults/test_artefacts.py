"""Artefacts that are of a newer version, damaged, edited, or not what they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from segclip_deploy._optional import upgrade_command
from segclip_deploy.artifacts import files
from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine, record_path
from segclip_deploy.artifacts.files import read_json, read_npz, sha256_file
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.model_spec import ModelSpec, load_spec
from segclip_deploy.artifacts.onnx_file import check_self_contained, makers
from segclip_deploy.artifacts.plan import PrecisionPlan, load_plan, save_plan
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.calibration.table import load_table
from segclip_deploy.errors import BadArtifact, BadInput, SegclipError, StaleArtifact
from segclip_deploy.model.checkpoint import load_checkpoint
from segclip_deploy.model.text import load_text_bank, save_text_bank
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.open_engine import open_engine
from segclip_deploy.tradeoff.state import load_accuracy, load_latency
from tests.support.fakes import random_bank
from tests.support.helpers import call

pytestmark = pytest.mark.faults


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a JSON file."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return path


def with_metadata(source: Path, out: Path, change: Callable[[dict[str, str]], object]) -> Path:
    """A copy of a safetensors file with other metadata."""
    with safe_open(source, "numpy") as stored:
        metadata = dict(stored.metadata() or {})
    change(metadata)
    save_file(load_file(source), out, metadata=metadata)
    return out


def newer(metadata: dict[str, str]) -> None:
    metadata["segclip_deploy"] = json.dumps({**json.loads(metadata["segclip_deploy"]), "schema": 9})


@pytest.mark.parametrize("kind", ["bundle", "table", "plan", "engine", "checkpoint", "bank"])
def test_a_newer_schema_is_refused_with_the_command(
    kind: str, tiny_bundle: Path, tiny_table: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    def raise_schema(record: dict[str, Any]) -> None:
        record["schema"] = 9

    load: Callable[[Path], object]
    if kind == "bundle":
        path, load = shutil.copytree(tiny_bundle, tmp_path / "b"), load_bundle
        edit(path / "bundle.json", raise_schema)
    elif kind == "table":
        path, load = Path(shutil.copy(tiny_table, tmp_path / "t.json")), load_table
        edit(path, raise_schema)
    elif kind == "plan":
        path, load = tmp_path / "p.yaml", load_plan
        save_plan(path, PrecisionPlan(Scheme.CPU, "b", {"head": "int8"}))
        assert load_plan(path).blocks == {"head": "int8"}
        path.write_text(path.read_text().replace("schema: 3", "schema: 9"))
    elif kind == "engine":
        path, load = tmp_path / "e.ort.onnx", load_engine
        build_engine(load_bundle(tiny_bundle), path)
        edit(record_path(path), raise_schema)
    elif kind == "checkpoint":
        path, load = (
            with_metadata(tiny_checkpoint, tmp_path / "c.safetensors", newer),
            load_checkpoint,
        )
    else:
        save_text_bank(tmp_path / "now.safetensors", random_bank(0))
        path = with_metadata(
            tmp_path / "now.safetensors", tmp_path / "b.safetensors", raise_schema_of_bank
        )

        def load(path: Path) -> object:
            return load_text_bank(str(path), load_vocabulary("dubai"))

    with pytest.raises(SegclipError, match="newer than this version reads") as caught:
        load(path)
    assert upgrade_command() in str(caught.value)


def raise_schema_of_bank(metadata: dict[str, str]) -> None:
    metadata["schema"] = "9"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_checkpoint_that_is_not_finite_is_named_by_its_weight(
    value: float, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arrays, path = load_file(tiny_checkpoint), tmp_path / "c.safetensors"
    name = next(n for n, a in arrays.items() if a.dtype == np.float16 and "bank" not in n)
    arrays[name] = arrays[name].copy()
    arrays[name].flat[0] = value
    with safe_open(tiny_checkpoint, "numpy") as stored:
        save_file(arrays, path, metadata=stored.metadata())
    result = call("export", path, "-o", tmp_path / "b", "--size", "64x96")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"error: {path}: weight {name} is not finite"
    assert list(tmp_path.iterdir()) == [path]


def test_an_edited_engine_or_one_beside_another_bundles_record_is_refused(
    tiny_bundle: Path, open_bundle: Path, tmp_path: Path
) -> None:
    path, other = tmp_path / "e.ort.onnx", tmp_path / "o.ort.onnx"
    build_engine(load_bundle(tiny_bundle), path)
    build_engine(load_bundle(open_bundle), other)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StaleArtifact, match="build-engine"):
        load_engine(path)
    path.write_bytes(whole)
    record_path(other).replace(record_path(path))
    with pytest.raises(StaleArtifact, match="build-engine"):
        load_engine(path)


@pytest.mark.parametrize("settings", [{"provider": "x"}, {"no": 1}, {"threads": "many"}, []])
def test_an_engine_of_unknown_settings_is_refused_with_the_command(
    settings: object, tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "e.ort.onnx"
    build_engine(load_bundle(tiny_bundle), path)
    edit(record_path(path), lambda record: record["built"].update(settings=settings))
    with pytest.raises(BadArtifact, match="build-engine"):
        open_engine(path)


# What the fuzzer found (benchmarks/fuzz.py), one case for each place.


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": NaN}', '{"a": 1e400}', '{"a": -Infinity}', '{"a": ' + "1" * 5000 + "}",
     '{"a": ["\\ud800"]}', '{"\\uDFFF": 1}'],
    ids=["deep", "NaN", "too large", "infinity", "too many digits", "half a pair", "half a name"],
)  # fmt: skip
def test_json_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadArtifact, match="not readable as JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "change",
    [
        {"ground_sample_distance_m": float("inf")}, {"ignore_value": float("inf")}, {"name": [1]},
        {"name": "a\nb"}, {"title": "\ud800"}, {"classes": 1}, {"classes": [1, 2]}, {"templates": 3},
        {"ground_sample_distance_m": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_vocabulary_of_other_kinds_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    data = {**load_vocabulary("dubai").to_json(), **change}
    (tmp_path / "v.yaml").write_text(json.dumps(data))
    with pytest.raises(BadInput, match=r"v\.yaml"):
        load_vocabulary(tmp_path / "v.yaml")


def test_a_vocabulary_that_laughs_is_refused_at_once(tmp_path: Path) -> None:
    """A few lines of YAML that stand for 10⁹ strings."""
    lines = ["a0: &a0 [x]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)
    ]
    data = json.dumps({**load_vocabulary("dubai").to_json(), "name": "NAME"})
    laughing = "\n".join([*lines, "name: *a9", *(f"{k}: {json.dumps(v)}" for k, v in json.loads(data).items() if k != "name")])  # fmt: skip
    (tmp_path / "v.yaml").write_text(laughing)
    with pytest.raises(BadInput):
        load_vocabulary(tmp_path / "v.yaml")


@pytest.mark.parametrize(
    "change",
    [{"encoder": 1}, {"encoder": []}, {"std": []}, {"mean": [1]}, {"width": 10**9}, {"classes": 256},
     {"width": "x"}, {"cff_strides": 8}, {"width": "\ud800"}],
    ids=str,
)  # fmt: skip
def test_a_spec_of_other_kinds_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    data = {**ModelSpec(classes=5, text_width=16).to_json(), **change}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(data))))
    with pytest.raises(BadInput, match="not a valid model spec"):
        load_spec(tmp_path / "s.yaml")


@pytest.mark.parametrize("record", ["[]", "1", '{"schema": 1, "spec": null}', "[" * 100_000])
def test_a_checkpoint_of_another_record_is_refused(
    record: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = with_metadata(tiny_checkpoint, tmp_path / "c.safetensors", lambda m: m.update(segclip_deploy=record))  # fmt: skip
    with pytest.raises(BadArtifact):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "classes", [np.zeros(()), np.ones((5, 0)), np.array(["x"] * 5), np.ones(5)]
)
def test_a_text_bank_of_other_shapes_is_refused(classes: Any, tmp_path: Path) -> None:
    for arrays in ({"classes": classes, "texts": np.ones((5, 3, 16))}, {"classes": np.ones((5, 16)), "texts": classes}):  # fmt: skip
        np.savez(tmp_path / "b.npz", **arrays)
        with pytest.raises(BadInput):
            load_text_bank(str(tmp_path / "b.npz"), load_vocabulary("dubai"))


@pytest.mark.parametrize("name", ["tiles", "labels", "logits", "precision"])
def test_golden_tiles_of_other_shapes_are_refused(
    name: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    arrays = read_npz(tiny_bundle / "golden.npz")
    np.savez(tmp_path / "g.npz", **{**arrays, name: np.zeros(3)})
    with pytest.raises(BadArtifact, match="not golden tiles"):
        load_golden(tmp_path / "g.npz")


def test_arrays_that_unpack_to_more_than_fits_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(3 << 20, np.uint8))
    monkeypatch.setattr(files, "_MOST_UNPACKED", 2 << 20)
    with pytest.raises(BadArtifact, match="its arrays take"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 40, b"\x3a\xff\x01", b"\x03", b"\x3a\x05\x0a\x03\x12\x01\xff", b"not ONNX"],
)
def test_what_is_no_onnx_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for read in (check_self_contained, makers):
        try:
            read(path)
        except BadArtifact:
            continue
        assert data == b"\x3a\x05\x0a\x03\x12\x01\xff"  # whole, as far as a reader looks


@pytest.mark.parametrize("text", ["", "{}", '{"counts": 1}', '{"frame_ms": 1}'])
def test_what_a_sweep_has_left_and_is_damaged_says_how_to_go_on(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    for load in (lambda p: load_accuracy(p, ("a", "b")), load_latency):
        with pytest.raises(BadArtifact, match=r"rm .*the same command measures it again"):
            load(path)


def test_a_bundles_record_is_checked_to_the_last_value(tiny_bundle: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    whole = (path / "bundle.json").read_text()
    for change in ({"files": "ab"}, {"files": None}, {"outputs": 1}, {"vocabulary": []},
                   {"input": {"height": "x", "width": 96}}, {"input": {"height": 10**9, "width": 96}},
                   {"schema": "1"}):  # fmt: skip
        (path / "bundle.json").write_text(json.dumps({**json.loads(whole), **change}))
        with pytest.raises(BadArtifact):
            load_bundle(path)
    assert sha256_file(path / "golden.npz") == json.loads(whole)["files"]["golden.npz"]

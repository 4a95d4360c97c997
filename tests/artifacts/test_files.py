"""Artefacts: whole or not at all, and nobody else's files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.artifacts.bundle_record import BUNDLE
from segclip_deploy.artifacts.files import replace_directory, replace_file, sha256_file
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact
from tests.support.records import small_record


@pytest.fixture
def umask() -> Iterator[int]:
    mask = 0o027
    before = os.umask(mask)
    yield mask
    os.umask(before)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"\x08\x0a")  # an ONNX file of IR version 10, and no more
    (path / "golden.npz").write_bytes(b"not really tiles")
    files = {name: sha256_file(path / name) for name in ("model.onnx", "golden.npz")}
    BUNDLE.write(path / "bundle.json", small_record(files=files))
    return path


def edit_record(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """A damage that changes a bundle's record."""

    def damage(path: Path) -> None:
        record = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
        change(record)
        (path / "bundle.json").write_text(json.dumps(record), encoding="utf-8")

    return damage


def tree(path: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with the contents of files."""
    return {
        str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in path.rglob("*")
    }


def test_a_replaced_file_has_the_new_content_and_the_permission_of_the_umask(
    tmp_path: Path, umask: int
) -> None:
    path = tmp_path / "new folder" / "file.json"
    for content in ("old", "new"):
        with replace_file(path) as temporary:
            temporary.write_text(content)
    assert tree(path.parent) == {"file.json": b"new"}
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.faults
def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")

    def write() -> None:
        with replace_file(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert tree(tmp_path) == {"file.json": b"old"}


@pytest.mark.parametrize("before", ["absent", "empty", "of its kind"])
def test_a_directory_is_replaced_whole_where_that_harms_nobody(
    tmp_path: Path, umask: int, before: str
) -> None:
    path = tmp_path / "bundle"
    if before != "absent":
        path.mkdir()
    if before == "of its kind":
        (path / "marker").write_text("old")
    with replace_directory(path, contents=("marker",)) as temporary:
        (temporary / "marker").write_text("new")
    assert tree(tmp_path) == {"bundle": None, "bundle/marker": b"new"}
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("foreign", ["bundle/photo.jpg", "bundle"])
@pytest.mark.faults
def test_foreign_files_are_refused_and_left_untouched(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / foreign).write_bytes(b"precious")
    before = tree(tmp_path)
    with (
        pytest.raises(BadInput, match="will not be overwritten") as caught,
        replace_directory(tmp_path / "bundle", contents=("marker",)),
    ):
        pytest.fail("the body must not run")
    assert str(tmp_path / "bundle") in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.faults
def test_a_directory_stays_as_it_was_if_the_body_fails(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "marker").write_text("old")
    before = tree(tmp_path)

    def write() -> None:
        with replace_directory(path, contents=("marker",)) as temporary:
            (temporary / "marker").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert tree(tmp_path) == before


def test_a_directory_comes_back_if_the_new_one_cannot_be_moved_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "marker").write_text("old")
    before = tree(tmp_path)
    rename = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with (
        pytest.raises(OSError, match="disk full"),
        replace_directory(path, contents=("marker",)) as temporary,
    ):
        (temporary / "new").touch()
    assert tree(tmp_path) == before


def test_the_working_directory_itself_can_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with replace_directory(Path(), contents=("marker",)) as temporary:
        (temporary / "marker").write_text("new")
    assert tree(tmp_path) == {"marker": b"new"}


def test_a_bundle_is_read_as_it_was_written(bundle: Path) -> None:
    loaded = load_bundle(str(bundle))
    assert loaded.input == InputSpec(height=64, width=96, batch=2)
    assert loaded.outputs == ("labels", "logits")
    assert loaded.vocabulary == load_vocabulary("dubai")
    assert loaded.model_path.read_bytes() == b"\x08\x0a"
    assert loaded.record == small_record(files=loaded.files)
    assert loaded.sha256 == sha256_file(bundle / "bundle.json")


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        pytest.param(
            lambda p: (p / "bundle.json").unlink(), BadArtifact, "not a bundle", id="no record"
        ),
        pytest.param(
            lambda p: (p / "model.onnx").write_bytes(b"not really ONNX!"),
            StaleArtifact,
            "model.onnx is not the file",
            id="edited model",
        ),
        pytest.param(
            lambda p: (p / "model.onnx").unlink(), StaleArtifact, "model.onnx", id="no model"
        ),
        pytest.param(
            edit_record(lambda r: r.update(schema=BUNDLE.schema + 1)),
            BadArtifact,
            f"schema {BUNDLE.schema + 1} is newer",
            id="newer schema",
        ),
        pytest.param(
            lambda p: (p / "bundle.json").write_text('{"schema": 1,'),
            BadArtifact,
            "not readable as JSON",
            id="broken JSON",
        ),
        pytest.param(
            lambda p: (p / "bundle.json").write_text("[1]"),
            BadArtifact,
            "not a JSON object",
            id="a list",
        ),
        pytest.param(
            edit_record(lambda r: r.pop("outputs")),
            BadArtifact,
            "bundle.json: outputs: is missing; segclip-deploy export CKPT -o",
            id="missing key",
        ),
        pytest.param(
            edit_record(lambda r: r["input"].pop("width")),
            BadArtifact,
            "bundle.json: input.width: is missing; segclip-deploy export",
            id="missing width",
        ),
        pytest.param(
            edit_record(lambda r: r["vocabulary"].pop("classes")),
            BadArtifact,
            "bundle.json: vocabulary.classes: is missing; segclip-deploy export",
            id="missing classes",
        ),
    ],
)
@pytest.mark.faults
def test_a_damaged_bundle_is_refused_in_one_line_that_names_it(
    bundle: Path, damage: Callable[[Path], object], error: type[BadArtifact], says: str
) -> None:
    damage(bundle)
    with pytest.raises(BadArtifact) as caught:
        load_bundle(bundle)
    assert type(caught.value) is error
    assert says in str(caught.value)
    assert str(bundle) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadArtifact, match="not a bundle"):
            load_bundle(path)

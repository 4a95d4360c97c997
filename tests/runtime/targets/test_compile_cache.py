"""What OpenVINO compiled is found again, and nothing else is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.errors import StaleArtifact
from segclip_deploy.runtime.open_engine import open_engine
from segclip_deploy.runtime.targets.compile_cache import _KEPT, CompileCache
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend
from tests.support.fakes import random_frame

ov = pytest.importorskip("openvino")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "segclip-deploy" / "openvino"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Whether each model was compiled or imported."""
    made: list[str] = []
    for name in ("compile_model", "import_model"):
        real = getattr(ov.Core, name)

        def spy(self, *given, _real=real, _name=name, **named):  # type: ignore[no-untyped-def]
            answer = _real(self, *given, **named)
            made.append(_name)
            return answer

        monkeypatch.setattr(ov.Core, name, spy)
    return made


def logits_of(
    model: Path, sha256: str | None, batch: range = range(1, 2), count: int = 1
) -> NDArray[np.float32]:
    backend = OpenVinoBackend(model, threads=1, batches=batch, sha256=sha256)
    images = np.stack([random_frame(64, 96, seed).pixels for seed in range(count)])
    answer = backend.infer({"image": images})["logits"].copy()
    backend.close()
    return answer


def test_what_was_compiled_is_found_and_says_the_same(
    tiny_bundle: Path, folder: Path, calls: list[str]
) -> None:
    model = tiny_bundle / "model.onnx"
    digest = sha256_file(model)
    plain, first, again = (logits_of(model, d) for d in (None, digest, digest))
    assert calls == ["compile_model", "compile_model", "import_model"]
    assert np.array_equal(plain, first)
    assert np.array_equal(plain, again)


def test_an_open_batch_stays_open(open_bundle: Path, folder: Path, calls: list[str]) -> None:
    model = open_bundle / "model.onnx"
    for count in (1, 3):
        plain = logits_of(model, None, range(1, 4), count)
        for _ in range(2):
            found = logits_of(model, sha256_file(model), range(1, 4), count)
            assert np.array_equal(plain, found)
    assert calls.count("import_model") == 3
    logits_of(model, sha256_file(model), range(1, 3))  # other limits, another entry
    assert calls[-1] == "compile_model"


def test_an_edited_model_is_not_served_from_the_cache(
    tiny_bundle: Path, folder: Path, tmp_path: Path, calls: list[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    path = tmp_path / "model.onnx"
    shutil.copyfile(tiny_bundle / "model.onnx", path)
    before = logits_of(path, sha256_file(path))
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda i: len(i.raw_data))
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, path)
    after = logits_of(path, sha256_file(path))
    assert calls == ["compile_model", "compile_model"]
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("damage", ["empty", "cut", "other bytes", "zeros at the end", "not ours"])
@pytest.mark.faults
def test_a_damaged_entry_is_compiled_anew(
    damage: str, tiny_bundle: Path, folder: Path, calls: list[str]
) -> None:
    model = tiny_bundle / "model.onnx"
    digest = sha256_file(model)
    good = logits_of(model, digest)
    (entry,) = folder.iterdir()
    data = bytearray(entry.read_bytes())
    half = len(data) // 2
    if damage == "other bytes":
        data[half : half + 2000] = bytes(byte ^ 0x55 for byte in data[half : half + 2000])
    elif damage == "zeros at the end":
        data[half:] = bytes(len(data) - half)
    elif damage == "not ours":  # whole, and nothing that OpenVINO would take
        CompileCache(entry).write(b"something else")
        data = bytearray(entry.read_bytes())
    else:
        data = data[: half if damage == "cut" else 0]
    entry.write_bytes(data)
    assert np.array_equal(logits_of(model, digest), good)
    assert calls == ["compile_model", "compile_model"]
    assert np.array_equal(logits_of(model, digest), good)
    assert calls[-1] == "import_model"  # mended


_WRITER = """
import itertools, sys
from pathlib import Path
from segclip_deploy.runtime.targets.compile_cache import CompileCache
cache = CompileCache(Path(sys.argv[1]))
print("ready", flush=True)
for turn in itertools.count():
    cache.write(bytes([turn % 256]) * 5_000_000)
"""


@pytest.mark.faults
def test_a_process_killed_while_writing_leaves_an_entry_that_is_whole(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path / "one.compiled")
    cache.write(b"before")
    for seconds in (0.01, 0.03, 0.05):
        command = [sys.executable, "-c", _WRITER, str(cache.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(seconds)
            writer.send_signal(signal.SIGKILL)
        found = cache.read()
        assert found == b"before" or (found and len(found) == 5_000_000 and len(set(found)) == 1)


def test_the_last_used_are_kept(folder: Path) -> None:
    entries = [CompileCache.of("openvino", {"model": str(n)}) for n in range(_KEPT + 2)]
    for age, entry in enumerate(entries[:_KEPT]):
        entry.write(b"model")
        os.utime(entry.path, (1e9 + age, 1e9 + age))
    assert entries[0].read() == b"model"  # the oldest, used now
    for entry in entries[_KEPT:]:
        entry.write(b"model")
    assert len(list(folder.iterdir())) == _KEPT
    assert [e.read() is None for e in entries[:4]] == [False, True, True, False]


@pytest.mark.faults
def test_a_folder_that_cannot_be_written_stops_nothing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model = tiny_bundle / "model.onnx"
    assert np.isfinite(logits_of(model, sha256_file(model))).all()


def test_an_engine_is_opened_through_the_cache(
    tiny_bundle: Path, folder: Path, tmp_path: Path, calls: list[str]
) -> None:
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.runtime.build_engine import build_engine

    path = tmp_path / "tiny.ov.onnx"
    build_engine(load_bundle(tiny_bundle), path)
    assert not folder.exists()  # candidates of the search are not kept
    for _ in range(2):
        open_engine(path).backend.close()
    assert calls[-2:] == ["compile_model", "import_model"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StaleArtifact):
        open_engine(path)
    with pytest.raises(StaleArtifact):
        load_engine(path)

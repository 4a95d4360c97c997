"""The lines of a service: bounded, whole, and going on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.sinks.base import FrameResult
from segclip_deploy.runtime.io.sinks.folder import FolderSink
from segclip_deploy.runtime.io.sinks.line_log import LineLog, next_number, older_lines
from segclip_deploy.runtime.io.sources.base import Shot
from segclip_deploy.runtime.io.telemetry.capture import Capture
from tests.support.fakes import FakeBackend, random_frame


def numbers(path: Path) -> list[int]:
    """Of all lines that are there, the older ones first."""
    files = [file for file in (older_lines(path), path) if file.exists()]
    return [json.loads(line)["index"] for file in files for line in file.read_text().splitlines()]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 120), min_size=1, max_size=60),
    limit=st.integers(300, 1000),
    restarts=st.sets(st.integers(0, 59)),
)
def test_lines_stay_within_their_bound_and_the_newest_are_there(
    lengths: list[int], limit: int, restarts: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "areas.jsonl"
    log = LineLog(path, limit).__enter__()
    for number, length in enumerate(lengths):
        if number in restarts:
            log.__exit__(None, None, None)
            log = LineLog(path, limit).__enter__()
        log.write(json.dumps({"index": number, "x": "x" * length}))
        assert sum(p.stat().st_size for p in path.parent.iterdir()) <= limit
        found = numbers(path)
        assert found == list(range(found[0], number + 1))
        kept = sum(len(json.dumps({"index": n, "x": "x" * lengths[n]})) + 1 for n in found)
        assert found[0] == 0 or kept > limit // 2 - 150  # half of the bound, but for one line
    log.__exit__(None, None, None)


@pytest.mark.parametrize(
    "torn",
    [b'{"index": 3, "ima', b'{"index": 3, "ima\n', b"\0" * 4096, b'{"index": 3\n\0\0\n', b"3\n"],
)
@pytest.mark.faults
def test_what_a_power_cut_leaves_of_a_line_is_cut_off(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "areas.jsonl"
    whole = b'{"index": 0}\n{"index": 2}\n'
    path.write_bytes(whole + torn)
    with LineLog(path, 1000) as log:
        assert path.read_bytes() == whole
        log.write('{"index": 3}')
    assert numbers(path) == [0, 2, 3]
    path.write_bytes(torn)
    with LineLog(path, 1000) as log:
        log.write('{"index": 0}')
    assert numbers(path) == [0]


def test_lines_of_files_begin_anew_with_the_first(tmp_path: Path) -> None:
    path = tmp_path / "areas.jsonl"
    path.write_text('{"index": 0}\n')
    older_lines(path).write_text('{"index": 0}\n')
    with LineLog(path, 1000, anew=True) as log:
        assert numbers(path) == [0, 0]  # what was there stays until there is something else
        log.write('{"index": 7}')
    assert numbers(path) == [7]


def test_numbers_go_on_from_pictures_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "areas.jsonl"
    assert next_number(tmp_path / "absent", path) == 0
    path.write_text('{"index": 41}\n{"index": 42}\n')
    assert next_number(tmp_path, path) == 43
    path.replace(older_lines(path))  # killed before there was a new one
    assert next_number(tmp_path, path) == 43
    for name in ("live_000050.png", "live_1000001.overlay.png", "live_9000000x.png", "f_99.png"):
        (tmp_path / name).write_bytes(b"")
    assert next_number(tmp_path, path) == 1000002
    path.write_text('{"index": 2000000}\n{"ind')
    assert next_number(tmp_path, path) == 2000001


def test_what_is_named_is_on_the_disk_and_what_a_line_names_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the order of the calls to the kernel, which is all that can be seen without a power cut."""
    seen: list[tuple[str, str]] = []
    flush, rename = os.fsync, Path.replace

    def fsync(number: int) -> None:
        seen.append(("flush", str(Path(f"/proc/self/fd/{number}").readlink())))
        flush(number)

    def replace(self: Path, target: Path) -> Path:
        seen.append(("flushed name" if ("flush", str(self)) in seen else "name", target.name))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr("segclip_deploy.runtime.io.sinks.folder._FLUSH_S", 0.0)
    out = tmp_path / "out"
    flyer = Segmenter(FakeBackend(64, 64), InputSpec(64, 64), load_vocabulary("dubai"))
    frame = Shot(random_frame(64, 64), "live_000000", 0, Capture(), None, 1.0, time.perf_counter())
    result = FrameResult(frame, flyer.segment(frame.frame), flyer.vocabulary)
    with FolderSink(out, log=LineLog(out / "areas.jsonl", 10_000)) as sink:
        sink.write(result)
        told = [one for one in seen if not one[1].startswith(f"{out}/.")]
    assert told == [
        ("flushed name", "live_000000.png"),
        ("flushed name", "live_000000.overlay.png"),
        ("flush", str(out)),
        ("flush", str(out / "areas.jsonl")),
    ]
    seen.clear()
    with FolderSink(tmp_path / "plain") as sink:
        sink.write(result)
    assert {what for what, _ in seen} == {"name"}

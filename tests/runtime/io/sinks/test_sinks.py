"""Several sinks of one run: each gets every result, and each is closed."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import pytest

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.sinks.base import (
    FanOut,
    FrameResult,
    RasterResult,
    Sink,
    WriteTimes,
)
from segclip_deploy.runtime.io.sinks.folder import FolderSink
from segclip_deploy.runtime.io.sinks.storage import Storage
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.listing import find_files
from segclip_deploy.runtime.streaming.run import Run
from tests.cli.test_run import files_up_to, images, lines
from tests.support.fakes import FakeBackend

DUBAI = load_vocabulary("dubai")


class Radio:
    """A sink of somebody else: it sends the names of results, which takes a second each."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.opened = False
        self.ended_with: list[type[BaseException] | None] = []

    def __enter__(self) -> None:
        self.opened = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.opened = False
        self.ended_with.append(kind)

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        assert self.opened
        self.sent.append(result.name)
        return WriteTimes(1000.0)


def fly(source: Path, out: Path, sink: Sink) -> Run:
    segmenter = Segmenter(FakeBackend(64, 64), InputSpec(64, 64), DUBAI)
    run = Run(segmenter, FileSource(find_files([source], out)), sink)
    with segmenter, sink:
        list(run)
    return run


def test_a_sink_of_ones_own_flies_beside_the_folder(tmp_path: Path) -> None:
    source, out, radio = images(tmp_path / "in", 3), tmp_path / "out", Radio()
    (source / "f001.png").write_bytes(b"bad")
    run = fly(source, out, FanOut(radio, FolderSink(out)))
    assert radio.sent == ["f000", "f002"]
    assert radio.ended_with == [None]
    assert [line["labels"] for line in lines(out)] == ["f000.png", "f002.png"]
    assert all(line["ms"]["write"] < 1000 for line in lines(out))  # each sink is measured by itself
    times = run.summary.to_json()["ms"]["write"]
    assert times["p50"] > 990  # and the run counts all; percentiles are off by half a percent


@pytest.mark.faults
def test_every_sink_is_closed_when_one_meets_a_full_disk(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 3, 300, 300), tmp_path / "out"
    before, after = Radio(), Radio()
    with files_up_to(20_000), pytest.raises(OSError, match="File too large"):
        fly(source, out, FanOut(before, FolderSink(out), after))
    assert (before.sent, after.sent) == (["f000"], [])
    assert before.ended_with == after.ended_with == [OSError]
    assert [path.name for path in out.iterdir()] == ["areas.jsonl"]
    assert lines(out) == []


@pytest.mark.faults
def test_a_sink_that_does_not_open_leaves_no_other_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    radio = Radio()
    with pytest.raises(OSError, match="file"), FanOut(radio, FolderSink(tmp_path / "file" / "out")):
        pass
    assert radio.ended_with == [NotADirectoryError]
    assert not radio.opened


def test_the_oldest_files_go_first_whatever_they_are_called(tmp_path: Path) -> None:
    """By the time they were written, those of earlier runs too; neither by name nor by size."""
    for age, name, size in ((30, "c", 10), (10, "b", 40), (20, "a", 20)):
        (tmp_path / name).write_bytes(bytes(size))
        os.utime(
            tmp_path / name, ns=(2 * 10**18, 10**18 - age * 10**9)
        )  # read just now, all of them
    storage = Storage(70, (tmp_path / name for name in "abc"))
    left = []
    for name in "dz":
        storage.write(tmp_path / name, bytes(25))
        left.append({path.name for path in tmp_path.iterdir()})
    assert left == [{"b", "d"}, {"d", "z"}]
    assert storage.removed == 3

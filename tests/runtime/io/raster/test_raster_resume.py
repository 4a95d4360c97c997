"""Interrupted rasters go on where they were, to the same bytes; and nothing half-written has the final name."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.raster.partial import Partial
from tests.conftest import ROOT
from tests.runtime.inference.test_stitching import Moody
from tests.runtime.io.raster.test_rasters import holes
from tests.support.rasters import label, labels_in, noise, segmenter, write_raster


class Stopped(Moody):
    """Is interrupted at its Nth call."""

    def __init__(self, calls: int, **outputs: bool) -> None:
        super().__init__(64, 96, 3, min_batch=1, **outputs)
        self.left = calls

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Answer, while there are calls left."""
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().infer(arrays)


def partial_of(out: Path) -> Path:
    return out.with_name(f".segclip-deploy.{out.name}.partial")


@pytest.mark.parametrize(("metres", "calls"), [(None, 8), (0.3, 14), (1.1, 4)])
@pytest.mark.parametrize("logits", [False, True])
def test_however_often_interrupted_the_bytes_are_the_same(
    tmp_path: Path, logits: bool, metres: float | None, calls: int
) -> None:
    source = write_raster(tmp_path / "a.tif", noise(600, 500), mask=holes(600, 500), tiled=True)
    once, out = tmp_path / "once.tif", tmp_path / "out.tif"
    never = Stopped(10**6, logits=logits)
    result = label(source, once, segmenter(never, metres=metres))
    stops, windows = 0, 0
    while not out.exists() and stops < 20:
        backend = Stopped(calls, logits=logits)
        flyer = segmenter(backend, metres=metres)
        try:
            last = label(source, out, flyer)
        except KeyboardInterrupt:
            assert partial_of(out).is_dir()
            assert not out.exists()
            stops += 1
        windows += sum(backend.seen)
    assert 1 <= stops < 20
    assert last.kept > 0
    assert windows < 3 * result.windows  # each time some rows of windows are done twice
    assert out.read_bytes() == once.read_bytes()
    assert last.areas == result.areas
    assert not partial_of(out).exists()


@pytest.mark.faults
def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", noise(400, 300))
    out, once = tmp_path / "out.tif", tmp_path / "once.tif"
    code = f"""
import os, signal
from pathlib import Path
from tests.support.rasters import label, segmenter
from tests.runtime.io.raster.test_raster_resume import Stopped
class Killed(Stopped):
    def infer(self, arrays):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().infer(arrays)
label(Path({str(source)!r}), Path({str(out)!r}), segmenter(Killed(8)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    result = label(source, out, segmenter(Stopped(10**6)))
    assert 0 < result.kept < 400
    label(source, once, segmenter(Stopped(10**6)))
    assert out.read_bytes() == once.read_bytes()


def test_what_is_whole_is_not_done_again(tmp_path: Path) -> None:
    source, out = write_raster(tmp_path / "a.tif", noise(200, 300)), tmp_path / "out.tif"
    first = label(source, out)
    before = out.stat().st_mtime_ns
    again = label(source, out)
    assert (again.windows, again.kept, again.areas) == (0, 200, first.areas)
    assert out.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["raster", "overlap", "bands"])
def test_finished_rows_of_other_settings_are_not_used(tmp_path: Path, change: str) -> None:
    source, out = write_raster(tmp_path / "a.tif", noise(400, 300)), tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        label(source, out, segmenter(Stopped(8)))
    assert Partial(out, (400, 300), "another").rows == 0
    with pytest.raises(KeyboardInterrupt):
        label(source, out, segmenter(Stopped(8)))
    flyer, reading = segmenter(Stopped(10**6)), {}
    if change == "raster":
        write_raster(source, noise(400, 300, seed=1))
        os.utime(source, ns=(0, 0))
    elif change == "overlap":
        flyer.overlap = 8
    else:
        reading = {"bands": (3, 2, 1)}
    result = label(source, out, flyer, **reading)
    assert result.kept == 0
    label(source, tmp_path / "once.tif", flyer, **reading)
    assert (labels_in(out) == labels_in(tmp_path / "once.tif")).all()


@pytest.mark.faults
def test_a_damaged_record_of_finished_rows_is_not_believed(tmp_path: Path) -> None:
    source, out = write_raster(tmp_path / "a.tif", noise(400, 300)), tmp_path / "out.tif"
    for damage in ("{", '{"rows": 100}', '{"rows": "x", "digest": "y"}'):
        with pytest.raises(KeyboardInterrupt):
            label(source, out, segmenter(Stopped(8)))
        (partial_of(out) / "partial.json").write_text(damage)
    with pytest.raises(KeyboardInterrupt):
        label(source, out, segmenter(Stopped(8)))
    os.truncate(partial_of(out) / "labels.raw", 100)
    assert label(source, out, segmenter(Stopped(10**6))).kept == 0


@pytest.mark.faults
def test_too_little_room_is_seen_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_raster(tmp_path / "a.tif", noise(400, 300))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 120_000))
    backend = Stopped(10**6)
    with pytest.raises(BadInput, match=r"300×400 labels need .* free; make room, or choose"):
        label(source, tmp_path / "out.tif", segmenter(backend))
    assert backend.seen == []
    assert {p.name for p in tmp_path.iterdir()} == {"a.tif"}


@pytest.mark.faults
def test_a_disk_that_fills_up_is_named_and_finished_rows_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_raster(tmp_path / "a.tif", noise(400, 300)), tmp_path / "out.tif"
    write = os.pwrite

    def full(file: int, data: Any, place: int) -> int:
        if place > 40_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:1000], place)  # a write may be short

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left") as caught:
        label(source, out)
    assert caught.value.filename == str(partial_of(out) / "labels.raw")
    assert not out.exists()
    monkeypatch.undo()
    assert label(source, out).kept > 0
    label(source, tmp_path / "once.tif")
    assert out.read_bytes() == (tmp_path / "once.tif").read_bytes()


def test_a_file_that_cannot_be_written_at_the_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rasterio.shutil
    from rasterio.errors import RasterioIOError

    def fails(*_: object, **__: object) -> None:
        raise RasterioIOError("TIFFAppendToStrip: Write error") from Exception("disk full")

    source, out = write_raster(tmp_path / "a.tif", noise(400, 300)), tmp_path / "out.tif"
    with monkeypatch.context() as patched:
        patched.setattr(rasterio.shutil, "copy", fails)
        with pytest.raises(OSError, match="cannot be written") as caught:
            label(source, out)
    assert str(caught.value).count(str(out)) == 1
    assert not out.exists()
    result = label(source, out)
    assert (result.kept, result.windows) == (400, 0)

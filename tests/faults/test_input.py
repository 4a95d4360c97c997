"""Images, folders and masks that cannot be used: one line each, and the rest is done."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.runtime.inference.frame import read_frame
from segclip_deploy.runtime.io.sources.listing import find_files
from segclip_deploy.runtime.io.telemetry.capture import Capture
from segclip_deploy.runtime.io.telemetry.exif import read_capture
from tests.support.faults import error_lines, segclip

pytestmark = pytest.mark.faults


def png_bomb(side: int) -> bytes:
    """A small PNG that promises side × side black pixels, and holds 9600 rows of them at most."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + 3 * side)) for _ in range(min(side, 9_600)))
    rows += packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def tiff_of(width: int, height: int, count: int = 3) -> bytes:
    """A TIFF header that promises so many pixels and has none."""
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (277, 3, 1, count), (278, 4, 1, height), (279, 4, 1, 0xFFFFFFF0),
    ]  # fmt: skip
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + bytes(4)


def good(path: Path, height: int = 64, width: int = 96) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path, "PNG")


def test_bombs_are_refused_in_bounded_memory(tiny_bundle: Path, tmp_path: Path) -> None:
    """Of 2 GB of address space, most of it libraries; the pixels promised would take 4.8 and 11 000 GB."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "bomb.png").write_bytes(png_bomb(40_000))
    (source / "packed.png").write_bytes(png_bomb(9_600))
    (source / "huge.tif").write_bytes(tiff_of(60_000, 60_000))
    (source / "huger.tif").write_bytes(tiff_of(0xFFFFFFFF, 0xFFFFFFFF))
    (source / "bands.tif").write_bytes(tiff_of(64, 64, count=65_535))
    good(source / "good.png")
    done = segclip("run", tiny_bundle, source, "-o", tmp_path / "out", "--json", memory=2 << 30)
    assert done.returncode == 1, done.stderr
    assert "MemoryError" not in done.stderr
    report = json.loads(done.stdout)
    assert report["done"] == 1
    assert len(report["failed"]) == len(error_lines(done)) == 5


def test_a_folder_of_everything_is_done_as_far_as_it_can_be(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """Sizes and channels mixed, links that lead nowhere or round, a pipe, a folder called like an image."""
    source = tmp_path / "in"
    source.mkdir()
    good(source / "a.png")
    good(source / "b.png", 40, 300)
    good(source / "c.png", 1, 1)
    Image.new("L", (96, 64)).save(source / "grey.png")
    Image.new("RGBA", (96, 64)).save(source / "alpha.png")
    (source / "round.png").symlink_to("round.png")
    (source / "ring.png").symlink_to(source / "gnir.png")
    (source / "gnir.png").symlink_to(source / "ring.png")
    (source / "nowhere.jpg").symlink_to(tmp_path / "absent.jpg")
    (source / "folder.png").mkdir()
    good(source / "folder.png" / "d.png")
    os.mkfifo(source / "pipe.tif")
    (source / "empty.tif").write_bytes(b"")
    (source / "cut.tif").write_bytes(tiff_of(64, 64)[:60])
    mcap = ("--mcap", tmp_path / "out.mcap")  # which is compared with every source
    done = segclip("run", tiny_bundle, source, "-o", tmp_path / "out", *mcap, "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["done"] == 4
    assert (tmp_path / "out" / "folder.png" / "d.png").exists()
    assert len(report["failed"]) == len(error_lines(done)) == 9


def test_names_of_any_kind_stay_one_line_each(tiny_bundle: Path, tmp_path: Path) -> None:
    names = ["a b.png", "ü 地.png", "new\nline.png", "[red]x[bold].png", "\x1b[31m.png", "-x.png",
             "raw\udcff.png", "'quote\".png"]  # fmt: skip
    source, out = tmp_path / "in [blue]\n", tmp_path / "out [red]\n"
    source.mkdir()
    for name in names:
        good(source / name)
    (source / "bad\nerror: forged.png").write_bytes(b"")
    done = segclip("run", tiny_bundle, source, "-o", out, "--jsonl", tmp_path / "copy.jsonl")
    assert done.returncode == 1, done.stderr
    assert len(error_lines(done)) == 1
    assert "\x1b[31m" not in done.stderr
    lines = (out / "areas.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["labels"] for line in lines) == sorted(names)
    assert (tmp_path / "copy.jsonl").read_text().splitlines() == lines
    assert {p.name for p in out.glob("*.png") if ".overlay." not in p.name} == set(names)


def test_an_unreadable_image_is_listed_and_the_others_are_done(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    good(source / "a.png")
    good(source / "b.png")
    (source / "b.png").chmod(0)
    done = segclip("run", tiny_bundle, source, "-o", tmp_path / "out", ordinary=True)
    assert done.returncode == 1
    assert len(error_lines(done)) == 1
    assert "b.png: damaged or unreadable ([Errno 13] Permission denied" in done.stderr
    assert (tmp_path / "out" / "a.png").exists()


def test_a_mask_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    good(tmp_path / "images" / "a.png")
    Image.new("L", (95, 64)).save(tmp_path / "masks" / "a.png")
    dataset = open_dataset(tmp_path, load_vocabulary("dubai"))
    with pytest.raises(BadInput, match="mask is 95×64, its image 96×64"):
        dataset.read("a")


@pytest.mark.parametrize("name", ["../images/a", "..", "a/../a", "*", "/etc/hostname"])
def test_a_split_cannot_name_what_lies_outside_its_folder(name: str, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    good(tmp_path / "images" / "a.png")
    with pytest.raises(BadInput, match="0 images named"):
        open_dataset(tmp_path, load_vocabulary("dubai")).read(name)


def test_only_the_formats_of_frames_are_opened(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript, whatever a file is called."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (tmp_path / "a.jpg").write_bytes(eps)
    with pytest.raises(BadInput, match="not an image"):
        read_frame(tmp_path / "a.jpg")
    assert read_capture(tmp_path / "a.jpg") == Capture()


def test_what_is_named_and_is_not_there_ends_the_command_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    for source in (tmp_path / "absent.png", tmp_path / "round"):
        with pytest.raises(BadInput, match="no such file or folder"):
            find_files([source], tmp_path / "out")

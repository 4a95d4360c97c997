"""``run``, from the sources to the last file, and what happens when it is cut short."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from segclip_deploy._optional import install_command
from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.golden import Golden, save_golden
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, load_vocabulary
from segclip_deploy.errors import DeviceLost
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.label_map import class_areas
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.sinks.folder import FolderSink
from segclip_deploy.runtime.io.sinks.lines import LineFile
from segclip_deploy.runtime.io.sinks.storage import Storage
from segclip_deploy.runtime.io.sinks.video_sink import VideoWriter
from segclip_deploy.runtime.io.sources.base import Shot
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.listing import find_files
from segclip_deploy.runtime.io.sources.live import LiveSource
from segclip_deploy.runtime.io.sources.video import VideoFrame, count_frames, read_video
from segclip_deploy.runtime.io.telemetry.capture import Capture
from segclip_deploy.runtime.streaming.deadline import Decision, Pacer
from segclip_deploy.runtime.streaming.run import Run
from tests.conftest import ROOT, SHARED
from tests.support.fake_cli import open_fake
from tests.support.fakes import FakeBackend, blue_of, classes_of, logits_of, random_frame
from tests.support.helpers import call

BRIGHTON = SHARED / "uav_frames_brighton" / "images_1600x900"
DUBAI = load_vocabulary("dubai")


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)


def images(folder: Path, count: int, height: int = 50, width: int = 70) -> Path:
    folder.mkdir(exist_ok=True)
    for n in range(count):
        Image.fromarray(random_frame(height, width, n).pixels).save(folder / f"f{n:03d}.png")
    return folder


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]


def ok(result: Result) -> Result:
    assert result.exit_code == 0, result.stderr
    return result


# ---- what is said of a frame


@pytest.mark.usefixtures("fake_engine")
def test_a_line_says_when_what_and_how_long(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 3), tmp_path / "out"
    result = ok(call("run", "engine", source, "-o", out, "--json"))
    found = lines(out)
    assert [line["index"] for line in found] == [0, 1, 2]
    for line in found:
        assert line["time"] is line["gps"] is line["attitude"] is line["seconds"] is None
        assert list(line["ms"]) == ["read", "health", "prepare", "infer", "postprocess", "write"]
        assert line["age_ms"] >= line["ms"]["infer"] + line["ms"]["write"]
        assert "dropped" not in line  # files lose nothing
        assert "deadline" not in line
        assert "unlabelled" not in line["areas"]
    report = json.loads(result.stdout)
    assert report["done"] == 3
    assert report["windows"] == sum(line["windows"] for line in found)
    assert report["pixel_ratio"] == round(report["windows"] * 64 * 64 / (3 * 50 * 70), 4)
    assert set(report["ms"]["infer"]) == {"p50", "p95"}
    assert report["fps"] > 0
    assert report["deadline"] is None
    assert report["interrupted"] is False


@pytest.mark.usefixtures("fake_engine")
def test_windows_that_fit_badly_are_told_of_once_with_the_command_that_fits_one(
    tmp_path: Path,
) -> None:
    source = images(tmp_path / "in", 2, 450, 800)
    told = ok(call("run", "engine", source, "-o", tmp_path / "out", "--no-overlay"))
    (hint,) = [line for line in told.stderr.splitlines() if line.startswith("hint: ")]
    assert hint == (
        "hint: windows of 64x64 (height first) compute 1.93 times the pixels of a frame of 800x450 "
        "(width first); 1.07 times with: segclip-deploy export CKPT -o BUNDLE --frame 800x450"
    )
    assert "340 windows (1.93 times the pixels needed), " in told.stdout
    small = images(tmp_path / "small", 1)
    assert "hint" not in ok(call("run", "engine", small, "-o", tmp_path / "o")).stderr


@pytest.mark.shared
@pytest.mark.usefixtures("fake_engine")
def test_real_frames_and_a_video_of_them_give_the_same_labels_up_to_compression(
    tmp_path: Path,
) -> None:
    frames = sorted(BRIGHTON.iterdir())[:2]
    video = VideoWriter(tmp_path / "clip.mp4")
    for n, frame in enumerate(frames):
        with Image.open(frame) as image:
            video.write(np.asarray(image), 7.0 * n)
    video.close()
    told = ok(call("run", "engine", *frames, "-o", tmp_path / "a", "--video", tmp_path / "a.mp4"))
    assert "2 of 2 frames" in told.stdout
    ok(call("run", "engine", tmp_path / "clip.mp4", "-o", tmp_path / "b", "--no-overlay"))
    assert [line["gps"]["alt"] for line in lines(tmp_path / "a")][:2] == [198.309, 198.609]
    assert [line["seconds"] for line in lines(tmp_path / "b")] == [0, 7]
    agreement = [
        (read(tmp_path / "a" / a["labels"]) == read(tmp_path / "b" / b["labels"])).mean()
        for a, b in zip(lines(tmp_path / "a"), lines(tmp_path / "b"), strict=True)
    ]
    assert min(agreement) > 0.9
    overlays = list(read_video(tmp_path / "a.mp4"))
    assert len(overlays) == 2
    written = read(tmp_path / "a" / "DJI_0018.overlay.png")
    apart = np.abs(coarse(overlays[0].pixels) - coarse(written))  # 4:2:0 blurs what is finer
    assert apart.max() < 8
    assert not list((tmp_path / "b").glob("*.overlay.png"))


def read(path: Path, mode: str | None = None) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode) if mode else image)


def coarse(pixels: np.ndarray) -> np.ndarray:
    """Means of 20 × 20 pixels."""
    height, width, _ = pixels.shape
    return pixels.reshape(height // 20, 20, width // 20, 20, 3).mean((1, 3))


@pytest.mark.usefixtures("fake_engine")
def test_lines_on_stdout_leave_the_summary_to_stderr(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 2), tmp_path / "out"
    result = ok(call("run", "engine", source, "-o", out, "--jsonl", "-"))
    assert [json.loads(line) for line in result.stdout.splitlines()] == lines(out)
    assert "2 of 2 frames" in result.stderr
    ok(call("run", "engine", source, "-o", out, "--jsonl", tmp_path / "copy.jsonl"))
    assert (tmp_path / "copy.jsonl").read_bytes() == (out / "areas.jsonl").read_bytes()
    assert call("run", "engine", source, "-o", out, "--jsonl", "-", "--json").exit_code == 2


def test_the_consumer_in_the_docs_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "lines.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) <= 15
    made = tmp_path / "consumer.py"
    made.write_text(code[1])
    source, out = images(tmp_path / "in", 3), tmp_path / "out"
    flown = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.fake_cli",
            "run",
            "engine",
            source,
            "-o",
            out,
            "--jsonl",
            "-",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    done = subprocess.run(
        [sys.executable, made], stdin=flown.stdout, capture_output=True, text=True, check=True
    )
    flown.communicate(timeout=60)
    assert flown.returncode == 0
    assert len(done.stdout.splitlines()) == 3
    assert "f000.png" in done.stdout


@pytest.mark.faults
def test_a_consumer_that_ends_ends_the_run_with_one_line(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 30), tmp_path / "out"
    done = subprocess.run(
        f"{sys.executable} -m tests.support.fake_cli run engine {source} -o {out} --jsonl - | head -n 1; "
        "exit ${PIPESTATUS[0]}",
        shell=True,
        executable="/bin/bash",
        env={**os.environ, "FAKE_LATENCY_MS": "30"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: --jsonl -: the process that reads the lines has ended"
    )
    assert "Traceback" not in done.stderr


# ---- sub-folders


@pytest.mark.usefixtures("fake_engine")
def test_images_of_one_name_in_two_folders_are_kept_apart(tmp_path: Path) -> None:
    source = tmp_path / "uavid"
    out = source / "labels"
    for seed, folder in enumerate(("seq1", "seq2")):
        (source / folder / "Images").mkdir(parents=True)
        image = random_frame(50, 70, seed).pixels
        Image.fromarray(image).save(source / folder / "Images" / "000000.png")
    told = ok(call("run", "engine", source, "-o", out))
    assert "2 images in 2 folders" in told.stderr.splitlines()
    for seed, (folder, line) in enumerate(zip(("seq1", "seq2"), lines(out), strict=True)):
        assert line["labels"] == f"{folder}/Images/000000.png"
        expected = classes_of(random_frame(50, 70, seed).pixels)
        np.testing.assert_array_equal(read(out / line["labels"]), expected)
        assert (out / folder / "Images" / "000000.overlay.png").exists()

    # The results are no images of the next run, and --keep counts them where they lie.
    one = ok(call("run", "engine", source, "-o", source / "again", "--json"))
    assert json.loads(one.stdout)["done"] == 2
    ok(call("run", "engine", source / "seq1", "-o", out, "--no-overlay", "--keep", "0.001MB"))
    assert [path.relative_to(out).as_posix() for path in out.rglob("*.png")] == ["000000.png"]
    one = ok(call("run", "engine", source / "seq1", "-o", tmp_path / "flat"))
    assert "images in" not in one.stderr


# ---- masks and deadlines


@pytest.mark.usefixtures("fake_engine")
def test_pixels_of_a_small_margin_get_no_label(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 1), tmp_path / "out"
    ok(call("run", "margin", source, "-o", out, "--margin-below", "100"))
    pixels = random_frame(50, 70).pixels
    unsure = (blue_of(pixels) < 100).repeat(4, 0).repeat(4, 1)[:50, :70]
    expected = np.where(unsure, IGNORE_INDEX, classes_of(pixels))
    np.testing.assert_array_equal(read(out / "f000.png"), expected)
    over = read(out / "f000.overlay.png")
    np.testing.assert_array_equal(over[unsure], pixels[unsure])
    (line,) = lines(out)
    assert line["areas"]["unlabelled"]["pixels"] == unsure.sum()
    assert sum(area["pixels"] for area in line["areas"].values()) == 50 * 70

    before = {path: path.read_bytes() for path in out.iterdir()}
    result = call("run", "engine", source, "-o", out, "--margin-below", "100")
    assert result.exit_code == 1
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert "--margin-below: fake outputs no margin; segclip-deploy export" in result.stderr
    for bad in ("0", "256"):
        assert call("run", "margin", source, "-o", out, "--margin-below", bad).exit_code == 2


def test_areas_without_unlabelled_pixels_are_those_of_the_classes() -> None:
    assert list(class_areas(np.zeros((4, 4), np.uint8), DUBAI.names)) == list(DUBAI.names)


def test_a_deadline_leaves_out_what_does_not_fit_and_says_so(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 8, 150, 200), tmp_path / "out"
    backend = FakeBackend(64, 64, latency_ms=20)
    flyer = Segmenter(backend, InputSpec(64, 64), DUBAI)  # 12 windows, with overlap and without
    with flyer, FolderSink(out) as sink:
        run = Run(flyer, FileSource(find_files([source], out)), sink, deadline_ms=165)
        assert len(list(run)) == 8
    found = lines(out)
    assert [line["deadline"]["ms"] for line in found] == [165] * 8
    assert found[0]["deadline"]["action"] == "full"  # nothing was known
    assert found[0]["deadline"]["met"] is False
    for line in found[1:]:
        assert line["deadline"]["action"] == "fewer windows"
        assert 1 <= line["windows"] <= 8
        assert line["areas"]["unlabelled"]["pixels"] > 0
    # Of the frame that is whole, and of no other.
    assert (run.summary.computed, run.summary.needed) == (12 * 64 * 64, 150 * 200)
    report = run.summary.to_json()["deadline"]
    assert report["actions"] == {"full": 1, "fewer windows": 7}
    late = sum(not line["deadline"]["met"] for line in found)
    assert report["late"] == late
    assert report["miss_rate"] == pytest.approx(late / 8)


def test_windows_that_a_deadline_lays_side_by_side_are_counted_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = images(tmp_path / "in", 1, 64, 240), tmp_path / "out"
    monkeypatch.setattr(Pacer, "decide", lambda *_: Decision("no overlap", 1, 4))
    flyer = Segmenter(FakeBackend(64, 64), InputSpec(64, 64), DUBAI)  # 5 windows with overlap
    with flyer, FolderSink(out) as sink:
        run = Run(flyer, FileSource(find_files([source], out)), sink, deadline_ms=1e6)
        list(run)
    assert (run.summary.windows, run.summary.computed) == (4, 4 * 64 * 64)


def test_a_frame_that_is_skipped_has_a_line_and_no_old_files(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 4), tmp_path / "out"
    for deadline in (None, 1.0):
        flyer = Segmenter(FakeBackend(64, 96, latency_ms=15), InputSpec(64, 96), DUBAI)
        with FolderSink(out) as sink:
            run = Run(flyer, FileSource(find_files([source], out)), sink, deadline_ms=deadline)
            list(run)
    actions = [line["deadline"]["action"] for line in lines(out)]
    assert actions == ["full", "skip", "full", "skip"]
    assert run.summary.miss_rate == 1
    assert run.summary.pixel_ratio == 64 * 96 / (50 * 70)
    assert lines(out)[1]["labels"] is lines(out)[1]["areas"] is None
    assert sorted(p.name for p in out.glob("f00?.png")) == ["f000.png", "f002.png"]


def test_a_slow_engine_on_a_camera_drops_frames_and_counts_them(tmp_path: Path) -> None:
    def camera(_: str) -> Iterator[VideoFrame]:
        for n in range(40):
            time.sleep(0.005)
            yield VideoFrame(random_frame(64, 64, n).pixels, None, damaged=False)

    source = LiveSource("rtsp://drone", report=lambda _: None, patience_s=0, read=camera)
    flyer = Segmenter(FakeBackend(64, 64, latency_ms=30), InputSpec(64, 64), DUBAI)
    with FolderSink(tmp_path / "out") as sink:
        run = Run(flyer, source, sink)
        with pytest.raises(DeviceLost, match="vanished"):
            list(run)
    found = lines(tmp_path / "out")
    assert run.dropped > 5
    assert run.summary.done + run.dropped == 40
    assert [line["labels"] for line in found] == [f"live_{n['index']:06d}.png" for n in found]
    counts = [line["dropped"] for line in found]
    assert counts == sorted(counts)
    for line in found:
        pixels = random_frame(64, 64, line["index"]).pixels
        np.testing.assert_array_equal(read(tmp_path / "out" / line["labels"]), classes_of(pixels))


@pytest.mark.usefixtures("fake_engine")
@pytest.mark.faults
def test_what_was_done_before_a_camera_vanished_is_told_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def camera(_: str) -> Iterator[VideoFrame]:
        for n in range(3):
            yield VideoFrame(random_frame(64, 64, n).pixels, None, damaged=False)
            time.sleep(0.1)

    defaults = {"read": camera, "patience_s": 0.0}
    monkeypatch.setattr(LiveSource.__init__, "__kwdefaults__", defaults)
    out = tmp_path / "out"
    result = call("run", "engine", "rtsp://a", "-o", out, "--video", tmp_path / "o.mp4", "--json")
    assert result.exit_code == 4
    assert "error: rtsp://a: vanished (it has ended), and did not return for 0 s" in result.stderr
    done = json.loads(result.stdout)["done"]
    assert 1 <= done == len(lines(out)) == count_frames(tmp_path / "o.mp4")


@pytest.mark.usefixtures("fake_engine")
@pytest.mark.faults
def test_a_camera_that_is_not_there_leaves_the_last_flight_alone(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 2), tmp_path / "out"
    ok(call("run", "engine", source, "-o", out))
    result = call("run", "engine", "tcp://127.0.0.1:9", "-o", out)
    assert result.exit_code == 1
    assert "error: tcp://127.0.0.1:9: no picture (Connection refused)" in result.stderr
    assert len(lines(out)) == 2


# ---- before the first frame


@pytest.mark.usefixtures("fake_engine")
def test_preflight_refuses_to_fly_an_engine_that_fails(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 1), tmp_path / "out"
    tiles = np.stack([random_frame(64, 64, seed).pixels for seed in (1, 2)])
    logits = np.stack([logits_of(tile) for tile in tiles])
    for labels, code in ((classes_of(tiles), 0), (1 - np.minimum(classes_of(tiles), 1), 3)):
        save_golden(tmp_path / "golden.npz", Golden(tiles, labels, logits))
        result = call("run", tmp_path / "golden.npz", source, "-o", out, "--preflight")
        assert result.exit_code == code, result.stderr
        if code:
            assert "verification failed at labels" in result.stderr
        else:
            assert "verification passed" in result.stderr
            shutil.rmtree(out)
    assert not out.exists()


@pytest.mark.usefixtures("fake_engine")
@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["rtsp://a", "rtsp://b"], 1, "a camera is the only source"),
        (["{tmp}/none.mp4"], 1, "no such file"),
        (["{tmp}/in", "--keep", "10"], 2, "no size like 500MB"),
        (["{tmp}/in", "--video", "{tmp}/o.gif"], 1, "NAME.mp4"),
        (["{tmp}/in/f000.png", "--video", "{tmp}/in/f000.png"], 1, "overwrite a source"),
        (["{tmp}/in", "--deadline-ms", "0"], 2, "deadline"),
        (["{tmp}/in", "--jsonl", "{tmp}/no/where"], 1, "{tmp}/no/where: No such file"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    images(tmp_path / "in", 1)
    given = [word.format(tmp=tmp_path) for word in options]
    result = call("run", "engine", *given, "-o", tmp_path / "out")
    assert result.exit_code == code
    assert words.format(tmp=tmp_path) in result.stderr
    assert not list(tmp_path.glob("out/*.png"))


@pytest.mark.usefixtures("fake_engine")
def test_images_need_no_pyav_and_videos_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    source, out = images(tmp_path / "in", 1), tmp_path / "out"
    ok(call("run", "engine", source, "-o", out))
    (tmp_path / "a.mp4").write_bytes(b"x")
    for words in (["{tmp}/a.mp4"], ["{tmp}/in", "--video", "{tmp}/b.mp4"], ["rtsp://a"]):
        given = [word.format(tmp=tmp_path) for word in words]
        result = call("run", "engine", *given, "-o", out)
        assert result.exit_code == 1
        assert install_command("video") in result.stderr


@pytest.mark.shared
def test_a_frame_of_another_scale_is_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SHARED / "uav_frames_brighton" / "images_full" / "DJI_0026.JPG"
    with Image.open(original) as image:
        packet = {"exif": image.info["exif"], "xmp": image.info["xmp"]}
        for name in ("a", "b"):
            image.resize((400, 225)).save(tmp_path / f"{name}.jpg", **packet)
    loveda = load_vocabulary("loveda")
    monkeypatch.setattr(
        "segclip_deploy.runtime.open_engine.open_engine",
        lambda path, **options: replace(open_fake(path), vocabulary=loveda),
    )
    files = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    result = ok(call("run", "engine", *files, "-o", tmp_path / "out"))
    (told,) = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert told == (
        f"warning: {files[0]}: a pixel is about 0.19 m on the ground by altitude and focal length, "
        "and vocabulary loveda is of 0.3 m; labels may be wrong: resample the frames, or train at "
        "this scale"
    )


# ---- storage


def test_a_folder_keeps_within_its_limit_and_the_newest(tmp_path: Path) -> None:
    old = tmp_path / "old.png"
    old.write_bytes(bytes(300))
    store = Storage(1000, [old])
    for n in range(10):
        store.write(tmp_path / f"{n}.png", bytes(200 + n))
        assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 1000
    store.write(tmp_path / "9.png", bytes(100))  # over itself
    assert sorted(p.name for p in tmp_path.iterdir()) == ["6.png", "7.png", "8.png", "9.png"]
    assert store.removed == 7
    store.write(tmp_path / "large.png", bytes(5000))
    assert [p.name for p in tmp_path.iterdir()] == ["large.png"]


@pytest.mark.usefixtures("fake_engine")
def test_keep_bounds_the_images_and_leaves_every_line(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 6, 500, 700), tmp_path / "out"
    result = ok(call("run", "engine", source, "-o", out, "--keep", "1.5MB"))
    assert len(lines(out)) == 6
    stored = sorted(p.name for p in out.glob("*.png"))
    assert sum((out / name).stat().st_size for name in stored) <= 1_500_000
    assert "f005.png" in stored
    assert "f000.png" not in stored
    assert f"--keep: {12 - len(stored)} of the oldest files were removed" in result.stdout


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow larger, as on a disk that is full (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.faults
def test_a_line_that_does_not_fit_is_not_there_in_part(tmp_path: Path) -> None:
    path = tmp_path / "areas.jsonl"
    with path.open("wb", buffering=0) as stream, files_up_to(1000):
        file = LineFile(stream, str(path))
        for _ in range(3):
            file.write("x" * 299)
        with pytest.raises(OSError, match="File too large") as caught:
            file.write("y" * 299)
    assert caught.value.filename == str(path)
    assert path.read_text() == 3 * ("x" * 299 + "\n")


@pytest.mark.faults
def test_a_video_that_does_not_fit_is_not_there_in_part(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "out.mp4")

    def fill() -> None:
        for n in range(200):
            video.write(random_frame(240, 320, n).pixels, n / 10)
        video.close()

    with files_up_to(100_000), pytest.raises(OSError, match="File too large") as caught:
        fill()
    video.close()
    assert caught.value.filename == str(tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())


def fake_process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.fake_cli", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.faults
def test_a_full_disk_is_one_line_and_nothing_half_written(tmp_path: Path) -> None:
    source, out = images(tmp_path / "in", 3, 300, 300), tmp_path / "out"
    process = fake_process(
        *("run", "engine", source, "-o", out, "--video", tmp_path / "out.mp4"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)),
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    told = [line for line in errors.splitlines() if line.startswith("error")]
    assert told == [f"error: {out / 'f000.overlay.png'}: File too large"]
    assert "Traceback" not in errors
    assert sorted(p.name for p in out.iterdir()) == ["areas.jsonl", "f000.png"]
    assert not lines(out)
    assert not list(tmp_path.glob("*.mp4"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.faults
def test_a_signal_ends_a_run_well(tmp_path: Path, number: int) -> None:
    source, out = images(tmp_path / "in", 60), tmp_path / "out"
    process = fake_process(
        *("run", "engine", source, "-o", out, "--video", tmp_path / "out.mp4"),
        env={**os.environ, "FAKE_LATENCY_MS": "40"},
    )
    until = time.monotonic() + 60
    while not (out / "areas.jsonl").exists() or len(lines(out)) < 3:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "error: interrupted; nothing half-written was left behind"
    count = len(lines(out))
    assert 3 <= count < 60
    assert f"{count} of {count} frames" in told
    assert sorted(p.name for p in out.glob("f???.png")) == [f"f{n:03d}.png" for n in range(count)]
    assert {p.name[0] for p in out.iterdir()} == {"a", "f"}  # no temporary file
    assert count_frames(tmp_path / "out.mp4") == count


@pytest.mark.faults
def test_two_thousand_frames_grow_no_memory(tmp_path: Path) -> None:
    """Resident memory, read from the kernel, between frame 500 and the last."""

    class Endless:
        live = False
        total = None
        reconnects = dropped = 0

        def shots(self, stop: object) -> Iterator[Shot]:
            for n in range(2000):
                frame = Frame(np.full((128, 128, 3), n % 256, np.uint8), "made")
                yield Shot(frame, f"f{n % 4}", n, Capture(), None, 1.0, time.perf_counter())

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    flyer = Segmenter(FakeBackend(128, 128), InputSpec(128, 128), DUBAI)
    with FolderSink(tmp_path / "out", overlays=False) as sink:
        for number, _ in enumerate(Run(flyer, Endless(), sink)):
            if number == 500:
                before = resident()
    assert resident() - before < 4 << 20  # 1500 frames are 98 MB with their labels

"""GStreamer for real: files, live pipelines, an RTSP camera, colours, copies, and what is said of failures."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.runtime.io.pixel_formats import PixelLayout, to_rgb
from segclip_deploy.runtime.io.sources.base import Shot, Source, Unreadable
from segclip_deploy.runtime.io.sources.gstreamer_films import read_film
from segclip_deploy.runtime.io.sources.gstreamer_library import PACKAGES, load_gstreamer
from segclip_deploy.runtime.io.sources.gstreamer_sources import open_camera, open_pipeline
from segclip_deploy.runtime.io.sources.opening import Found, find_sources
from segclip_deploy.runtime.io.sources.video import read_video
from tests.runtime.io.sources.test_imperfect_video import TURNS, turned
from tests.support.fake_cli import open_fake
from tests.support.films import make_film, textured
from tests.support.helpers import call
from tests.support.rtsp_server import free_port, rtsp_server

pytestmark = pytest.mark.gstreamer

NEVER = threading.Event()


@contextmanager
def opened(source: str, said: list[str] | None = None) -> Iterator[Source]:
    with open_pipeline(source, said.append if said is not None else lambda _: None) as found:
        yield found


def read_all(source: str) -> tuple[list[Shot], list[Unreadable]]:
    with opened(source) as found:
        items = list(found.shots(NEVER))
    return (
        [item for item in items if isinstance(item, Shot)],
        [item for item in items if isinstance(item, Unreadable)],
    )


# ---- films


@pytest.fixture
def planes(monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.uint8]]:
    """Y, U and V of each frame that is converted, without their padding."""
    seen: list[NDArray[np.uint8]] = []

    def watched(data: Any, layout: PixelLayout) -> NDArray[np.uint8]:
        assert layout.format.value == "I420"
        values = np.frombuffer(data, np.uint8)
        sizes = [(layout.height, layout.width)] + [
            ((layout.height + 1) // 2, (layout.width + 1) // 2)
        ] * 2
        for (rows, row), stride, offset in zip(sizes, layout.strides, layout.offsets, strict=True):
            plane = np.ndarray((rows, row), np.uint8, values, offset, (stride, 1))
            seen.append(plane.copy())
        return to_rgb(data, layout)

    monkeypatch.setattr("segclip_deploy.runtime.io.sources.gstreamer_samples.to_rgb", watched)
    return seen


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_film_is_decoded_bit_for_bit_as_by_pyav(
    tmp_path: Path, planes: list[NDArray[np.uint8]], codec: str
) -> None:
    """Its planes. In RGB the two differ by the rounding of swscale, 3 at most."""
    side = textured(0).repeat(2, 0)[:182].repeat(2, 1)[:, :214]  # of sizes that are padded
    film = make_film(tmp_path / "film.mp4", 40, codec=codec, pixels=side, bf="2")
    frames = list(read_film(film, "sw", 40))
    with av.open(str(film)) as container:
        expected = list(container.decode(video=0))
    assert len(frames) == len(expected) == 40
    for number, (frame, reference) in enumerate(zip(frames, expected, strict=True)):
        assert frame.seconds == pytest.approx(reference.time, abs=1e-6)
        for plane, ours in zip(reference.planes, planes[3 * number : 3 * number + 3], strict=True):
            theirs = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            np.testing.assert_array_equal(ours, theirs[: ours.shape[0], : ours.shape[1]])
    for frame, reference_frame in zip(frames, read_video(film), strict=True):
        away = np.abs(frame.pixels.astype(int) - reference_frame.pixels)
        assert away.max() <= 3


def test_a_run_with_a_decoder_writes_what_one_without_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)
    film = make_film(tmp_path / "film.mp4", 60, bf="2")
    lines = []
    for options in ([], ["--decoder", "sw"]):
        out = tmp_path / f"out{len(options)}"
        result = call("run", "engine", film, "-o", out, "--no-overlay", *options)
        assert result.exit_code == 0, result.stderr
        lines.append([json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()])
    assert len(lines[0]) == 60
    for plain, chosen in zip(*lines, strict=True):
        for key in ("image", "index", "labels", "time", "gps"):
            assert plain[key] == chosen[key]
        assert plain["seconds"] == pytest.approx(chosen["seconds"], abs=1e-6)


@pytest.mark.parametrize("matrix", TURNS)
def test_a_film_is_turned_as_players_show_it(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    film = turned(tmp_path / "film.mp4", matrix)
    for ours, theirs in zip(read_film(film, "sw", 3), read_video(film), strict=True):
        assert ours.pixels.shape == theirs.pixels.shape
        assert np.abs(ours.pixels.astype(int) - theirs.pixels).max() <= 3


@pytest.mark.faults
def test_a_film_that_was_cut_off_is_done_as_far_as_it_goes_and_said(tmp_path: Path) -> None:
    """A copy that was interrupted; Matroska has its header in front."""
    film = make_film(tmp_path / "film.mkv", 75, bf="2")
    assert len(list(read_film(film, "sw", None))) == 75
    data = film.read_bytes()
    film.write_bytes(data[: len(data) // 2])
    frames = []
    with pytest.raises(BadInput, match=r"film\.mkv: cut off: \d\d frames in 1\.\d of 3\.0 s"):
        frames.extend(read_film(film, "sw", None))
    assert 25 < len(frames) < 50


def test_a_film_with_fewer_frames_than_its_header_counts_need_not_be_cut_off(
    tmp_path: Path,
) -> None:
    """An edit list hides some; it lasts as long as it says."""
    film = make_film(tmp_path / "film.mp4", 10)
    assert len(list(read_film(film, "sw", 12))) == 10


def test_a_film_without_a_picture_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.gstreamer_pipeline._OPEN_S", 0.5)
    sound = tmp_path / "sound.mkv"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        frame.rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(BadInput, match=r"sound\.mkv: no picture for 0\.5 s"):
        next(read_film(sound, "sw", None))


# ---- colours


@pytest.mark.parametrize(
    ("pixel_format", "colorimetry"),
    [
        *product(("NV12", "I420", "UYVY"), ("bt601", "bt709", "bt2020", "1:4:0:0", "1:3:5:1")),
        *product(("RGB", "BGRx"), ("sRGB",)),
    ],
)
def test_colours_are_those_of_gstreamers_own_converter(pixel_format: str, colorimetry: str) -> None:
    """Range, matrix and so on; 1:4 is BT.601 in full range, 1:3 is BT.709 in full range."""
    made = (
        "gst:videotestsrc num-buffers=1 pattern=smpte ! "
        f"video/x-raw,format={pixel_format},width=333,height=129,colorimetry=(string){colorimetry}"
    )
    (ours,), _ = read_all(made)
    (theirs,), _ = read_all(f"{made} ! videoconvert dither=none ! video/x-raw,format=RGB")
    ours, theirs = (shot.frame.pixels.astype(int) for shot in (ours, theirs))
    flat = np.ones(
        ours.shape[:2], bool
    )  # away from edges, where chroma is interpolated differently
    for axis, step in product((0, 1), range(-4, 5)):
        flat &= (np.roll(theirs, step, axis) == theirs).all(-1)
    assert flat.mean() > 0.3
    assert len(np.unique(theirs[flat], axis=0)) > 9  # colours
    # Its fast ways calculate with 6 bits after the point; another range or matrix is off by 10 and more.
    assert np.abs(ours - theirs)[flat].max() <= 5


# ---- copies


def test_a_frame_is_copied_once_on_the_host(tmp_path: Path) -> None:
    """No decoder copies it into rows without padding, and Python holds nothing but the result."""
    side = textured(0).repeat(8, 0)[:700].repeat(8, 1)[:, :1000]
    film = make_film(tmp_path / "film.mp4", 12, pixels=side)
    strides: set[tuple[int, ...]] = set()

    def watched(data: Any, layout: PixelLayout) -> NDArray[np.uint8]:
        strides.add(layout.strides)
        return to_rgb(data, layout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segclip_deploy.runtime.io.sources.gstreamer_samples.to_rgb", watched)
        assert peak_of(read_film(film, "sw", 12)) < 1.3 * side.size
    # FFmpeg pads rows for its own sake; GStreamer's default for this width is 1000 and 500.
    ((luma, *_),) = strides
    assert luma > 1000
    for pixel_format in ("RGB", "BGRx", "NV12"):
        source = (
            f"gst:videotestsrc num-buffers=12 ! video/x-raw,format={pixel_format},"
            "width=1000,height=700"
        )
        with opened(source) as found:
            assert peak_of(found.shots(NEVER)) < 1.3 * side.size


def peak_of(frames: Iterator[Any]) -> int:
    """Bytes that Python and NumPy hold at most while a frame is read, none being kept."""
    peaks = []
    tracemalloc.start()
    try:
        next(frames)  # opens, and imports
        for _ in range(6):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            next(frames)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    for _ in frames:
        pass
    return max(peaks)


# ---- pipelines that end


def test_a_pipeline_that_ends_loses_no_frame() -> None:
    shots = []
    with opened("gst:videotestsrc num-buffers=40 ! video/x-raw,framerate=30/1") as source:
        assert not source.live
        for shot in source.shots(NEVER):
            assert isinstance(shot, Shot)
            shots.append(shot)
            time.sleep(0.005)  # the pipeline is faster
    assert [shot.name for shot in shots] == [f"gst_{number:06d}" for number in range(40)]
    assert [shot.seconds for shot in shots] == pytest.approx([n / 30 for n in range(40)], abs=1e-6)
    assert shots[0].capture.time is None


@pytest.mark.faults
def test_an_error_comes_after_the_frames_before_it() -> None:
    shots, bad = read_all("gst:videotestsrc num-buffers=40 ! identity error-after=8")
    assert len(shots) == 7
    (item,) = bad
    assert "identity: Failed after iterations as requested" in str(item.error)


@pytest.mark.faults
def test_a_run_of_a_pipeline_that_breaks_off_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)
    source = "gst:videotestsrc num-buffers=40 ! identity error-after=8"
    result = call("run", "engine", source, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["done"], report["bad"]) == (7, 1)


OPENVINO_AFTER_GSTREAMER = """
from segclip_deploy.runtime.io.sources.gstreamer_sources import open_pipeline

with open_pipeline("gst:videotestsrc num-buffers=2", print):
    import openvino

    print(len(list(openvino.PartialShape([1, 2]))))  # ends by an exception of C++
"""


@pytest.mark.faults
def test_an_engine_in_cpp_may_be_opened_after_a_pipeline() -> None:
    """libunwind, which GStreamer brings, once ended the process at the first exception of OpenVINO."""
    command = [sys.executable, "-c", OPENVINO_AFTER_GSTREAMER]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


# ---- live pipelines


def test_a_slow_reader_gets_the_newest_frame_and_its_time() -> None:
    """The times of capture lie whole frames apart, as many as were dropped, whenever they are read."""
    shots: list[Shot] = []
    with opened("gst:videotestsrc is-live=true ! video/x-raw,framerate=25/1") as source:
        assert source.live
        for shot in source.shots(NEVER):
            assert isinstance(shot, Shot)
            age = time.perf_counter() - shot.clock
            assert 0 <= age < 0.2
            assert shot.capture.time is not None
            taken = datetime.now(timezone.utc) - datetime.fromisoformat(shot.capture.time)
            assert taken.total_seconds() == pytest.approx(age, abs=0.02)
            shots.append(shot)
            if len(shots) == 6:
                break
            time.sleep(0.13)
        dropped = source.dropped
    steps = [second.index - first.index for first, second in pairwise(shots)]
    apart = [25 * (second.clock - first.clock) for first, second in pairwise(shots)]
    assert max(steps) > 1
    assert sum(steps) - len(steps) == dropped
    assert apart == pytest.approx(steps, abs=0.2)


def test_a_run_counts_what_was_dropped_before_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that come faster than they are converted: the index of the last line counts all."""
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)

    def slow(data: Any, layout: PixelLayout) -> NDArray[np.uint8]:
        time.sleep(0.1)
        return to_rgb(data, layout)

    monkeypatch.setattr("segclip_deploy.runtime.io.sources.gstreamer_samples.to_rgb", slow)
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.live._FIRST_WAIT_S", 61.0)  # gives up
    source = "gst:videotestsrc is-live=true num-buffers=40 ! video/x-raw,framerate=50/1,width=64,height=64"
    result = call("run", "engine", source, "-o", tmp_path / "out", "--no-overlay", "--json")
    assert result.exit_code == 4  # it has ended, and does not return
    assert "vanished (it has ended)" in result.stderr
    report = json.loads(result.stdout)
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "areas.jsonl").read_text().splitlines()
    ]
    assert report["done"] + report["dropped"] == lines[-1]["index"] + 1 == 40
    assert report["dropped"] > 20


@pytest.mark.faults
def test_a_live_pipeline_without_frames_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.gstreamer_pipeline._OPEN_S", 0.4)
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.gstreamer_pipeline._LIVE_S", 0.4)
    with (
        opened(
            f"gst:udpsrc port={free_port()} ! video/x-raw,format=RGB,width=8,height=8"
        ) as source,
        pytest.raises(BadInput, match=r"no picture for 0\.4 s"),
    ):
        next(source.shots(NEVER))


@pytest.mark.faults
def test_a_stop_ends_a_wait_for_frames() -> None:
    """The pipeline is closed from another thread while the reader waits."""
    with opened(
        f"gst:udpsrc port={free_port()} ! video/x-raw,format=RGB,width=8,height=8"
    ) as source:
        failed: list[BaseException] = []

        def read() -> None:
            try:
                next(source.shots(NEVER), None)
            except BaseException as error:
                failed.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.2)
    reader.join(2)
    assert not reader.is_alive()


# ---- an RTSP camera


SECRET = "s3cret"


def by_decoder(url: str, report: Callable[[str], None]) -> Any:
    return open_camera(url, "auto", report)


def by_pipeline(url: str, report: Callable[[str], None]) -> Any:
    text = f"rtspsrc location={url} protocols=tcp latency=0 ! rtph264depay ! avdec_h264"
    return open_pipeline(f"gst:{text}", report)


@pytest.mark.faults
@pytest.mark.parametrize("way", [by_decoder, by_pipeline])
def test_a_camera_dies_and_returns(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.live._FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.gstreamer_pipeline._LIVE_S", 1.5)
    port, said = free_port(), []
    stop = threading.Event()
    with rtsp_server(port, "me", SECRET) as url:
        source = way(url, said.append)
        camera = source.__enter__()
        shots = camera.shots(stop)
        first = [next(shots) for _ in range(10)]
    try:
        with rtsp_server(port, "me", SECRET):
            second = []
            while not camera.reconnects:  # the newest frame may still wait
                second = [next(shots)]
            second += [next(shots) for _ in range(5)]
    finally:
        source.__exit__(None, None, None)
    assert {shot.frame.pixels.shape for shot in first + second} == {(240, 320, 3)}
    assert [s.index for s in first] == sorted({s.index for s in first})
    assert second[0].index > first[-1].index
    assert camera.reconnects == 1
    assert "vanished" in said[0]
    assert said[-1].endswith("there again")
    assert not any(SECRET in text for text in (*said, *(shot.frame.source for shot in first)))


# ---- what is said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "csi:0",
            "csi:0: GStreamer has no element nvarguscamerasrc, nvvidconv; it comes with JetPack",
        ),
        ("usb:99", "usb:99: v4l2src: Cannot identify device '/dev/video99'"),
        ("gst:videotestsrc ! nonesuch", "GStreamer has no element nonesuch; look for its package"),
        ("gst:videotestsrc nonesuch=3", 'not a pipeline (no property "nonesuch"'),
        ("gst:videotestsrc ! autovideosink", "and without a sink"),
        ("gst:videotestsrc ! video/x-raw,format=Y444", "end the pipeline with ! videoconvert"),
        (
            "gst:filesrc location=/nonesuch.mp4 ! decodebin",
            "filesrc: Resource not found (No such file",
        ),
        (
            f"gst:uridecodebin uri=http://me:{SECRET}@127.0.0.1:9/x",
            "gst:uridecodebin uri=http://127.0.0.1:9/x: souphttpsrc:",
        ),
    ],
)
def test_what_cannot_be_opened_is_one_line(source: str, said: str) -> None:
    def start() -> None:
        with opened(source) as found:
            assert source == "usb:99"  # a camera may come later, which a service waits for
            next(found.shots(NEVER))

    with pytest.raises(BadInput) as caught:
        start()
    line = str(caught.value)
    assert said in line
    assert "\n" not in line
    assert SECRET not in line


def test_a_wrong_password_is_one_line_without_it() -> None:
    with (
        rtsp_server(free_port(), "me", "right") as url,
        open_camera(url.replace("right", SECRET), "sw", lambda _: None) as source,
        pytest.raises(BadInput) as caught,
    ):
        next(source.shots(NEVER))
    line = str(caught.value)
    assert "rtspsrc: " in line
    assert "nauthorized" in line
    assert SECRET not in line
    assert "\n" not in line


def test_a_decoder_that_is_not_here_is_said(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", 3)
    with pytest.raises(BadInput, match="has no element nvv4l2decoder; it comes with JetPack"):
        next(read_film(film, "nv", 3))


@pytest.mark.parametrize(
    ("codec", "decoder", "chosen", "error"),
    [
        ("libx264", "nv", "nvv4l2decoder", None),
        ("libx264", "auto", "nvv4l2decoder", None),
        ("libx264", "sw", "avdec_h264", None),
        ("libx265", "auto", "avdec_h265", None),
        ("libx265", "nv", None, "nvv4l2decoder does not decode video/x-h265; --decoder sw"),
    ],
)
def test_a_jetsons_decoder_is_taken_where_it_is_there(
    tmp_path: Path, codec: str, decoder: str, chosen: str | None, error: str | None
) -> None:
    """With stand-ins of these names, in a process of their own; its nvvidconv gives BGRx."""
    film = make_film(tmp_path / "film.mp4", 12, codec=codec)
    command = [sys.executable, "-m", "tests.support.jetson_elements", str(film), decoder]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert told["decoders"] == [chosen]
    if error is not None:
        assert told["error"] == f"{film}: {error}"
        return
    assert (told["error"], told["frames"]) == (None, 12)
    assert told["formats"] == ["I420" if decoder == "sw" else "BGRx"]
    assert told["mean"] == pytest.approx(textured(11).mean(), abs=3)


def test_packages_are_those_that_elements_come_with() -> None:
    """By the plugins that are installed: each names its source package, as gst-plugins-good."""
    registry = load_gstreamer().Gst.ElementFactory
    checked = 0
    for package, elements in PACKAGES.items():
        for element in elements.split():
            factory = registry.find(element)
            if factory is not None:
                source = factory.get_plugin().get_source()
                assert source.replace("gst-", "gstreamer1.0-") == package, element
                checked += 1
    assert checked > 60


# ---- options that do not go together


def test_a_decoder_that_would_change_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    for camera, words in (
        (f"gst:rtspsrc location=rtsp://me:{SECRET}@h/x", "its pipeline names the decoder"),
        ("/dev/video0", "--decoder is for rtsp:// cameras and video files"),
        (f"http://me:{SECRET}@h/live", "--decoder is for rtsp:// cameras and video files"),
    ):
        with (
            pytest.raises(UsageError, match=words) as caught,
            Found(camera=camera).open([], lambda _: None, decoder="sw"),
        ):
            pass
        assert SECRET not in str(caught.value)
    with (
        pytest.raises(UsageError, match="--decoder does nothing"),
        Found().open([], lambda _: None, decoder="sw"),
    ):
        pass


def test_a_pipeline_is_the_only_source(tmp_path: Path) -> None:
    sources = [str(tmp_path), f"gst:rtspsrc location=rtsp://me:{SECRET}@h/x"]
    with pytest.raises(BadInput, match="a camera is the only source of a run") as caught:
        find_sources(sources, tmp_path / "out", folder=tmp_path, report=lambda _: None)
    assert SECRET not in str(caught.value)

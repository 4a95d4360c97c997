"""Frames of videos and cameras: what is read, what is said of it, what happens when it breaks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadInput, DeviceLost
from segclip_deploy.runtime.inference.frame import read_frame
from segclip_deploy.runtime.io.sinks.video_sink import VideoWriter
from segclip_deploy.runtime.io.sources.base import Shot, Unreadable
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.live import LiveSource, is_live
from segclip_deploy.runtime.io.sources.naming import SourceFile
from segclip_deploy.runtime.io.sources.video import VideoFrame, count_frames, read_video
from segclip_deploy.runtime.io.telemetry.capture import Attitude, Capture, Position
from segclip_deploy.runtime.io.telemetry.exif import read_capture, scale_warning
from tests.conftest import SHARED

BRIGHTON = SHARED / "uav_frames_brighton"
NEVER = threading.Event()


def flat(level: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A frame of one grey, told from the others by it after any compression."""
    return np.full((height, width, 3), level, np.uint8)


def write_video(path: Path, frames: int = 12, step: float = 0.1) -> Path:
    video = VideoWriter(path)
    for number in range(frames):
        video.write(flat(20 * number), step * number)
    video.close()
    return path


def remux(source: Path, path: Path, **options: str) -> Path:
    """The same packets in another container."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return path


# ---- files


def test_every_frame_of_a_video_is_read_in_order_with_its_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    source = FileSource([SourceFile(path, path.stem)])
    assert source.total == 12
    shots = [shot for shot in source.shots(NEVER) if isinstance(shot, Shot)]
    assert [shot.index for shot in shots] == list(range(12))
    assert [shot.name for shot in shots][:2] == ["clip_000000", "clip_000001"]
    assert [shot.seconds for shot in shots] == pytest.approx([0.1 * n for n in range(12)])
    levels = [shot.frame.pixels.mean() for shot in shots]
    assert levels == pytest.approx([20 * n for n in range(12)], abs=3)
    assert shots[0].frame.pixels.shape == (48, 64, 3)
    assert all(shot.read_ms > 0 for shot in shots)


def test_colours_survive_a_video(tmp_path: Path) -> None:
    """BT.601 taken for BT.709 moves green by 30 levels and more."""
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (120, 130, 60)]
    pixels = np.repeat(np.repeat(np.uint8([colours]), 48, 0), 16, 1)
    video = VideoWriter(tmp_path / "clip.mp4")
    video.write(pixels, 0)
    video.close()
    (read,) = read_video(tmp_path / "clip.mp4")
    assert np.abs(read.pixels[24, 8::16].astype(int) - colours).max() <= 4


@pytest.mark.parametrize(
    ("name", "left"), [("a.mp4", 0.9), ("front.mp4", 0.9), ("a.mkv", 0.6), ("a.mkv", 0.05)]
)
@pytest.mark.faults
def test_a_video_that_was_cut_off_is_reported_and_the_next_is_read(
    tmp_path: Path, name: str, left: float
) -> None:
    cut = write_video(tmp_path / name, step=0.5)
    if name == "front.mp4":  # with its index at the start, as cameras write it
        cut = remux(cut, tmp_path / "cut.mp4", movflags="faststart")
    cut.write_bytes(cut.read_bytes()[: int(left * cut.stat().st_size)])
    whole = write_video(tmp_path / "b.mp4", 3)
    items = list(FileSource([SourceFile(path, path.stem) for path in (cut, whole)]).shots(NEVER))
    bad = [item for item in items if isinstance(item, Unreadable)]
    assert len(bad) == 1
    assert str(bad[0].error).startswith(f"{cut}: ")
    assert [i.name for i in items[-3:] if isinstance(i, Shot)] == [f"b_00000{n}" for n in range(3)]


def test_a_whole_video_of_any_container_is_read_whole(tmp_path: Path) -> None:
    made = write_video(tmp_path / "a.mp4")
    for suffix in (".mp4", ".mkv", ".mov", ".ts"):
        path = remux(made, tmp_path / f"b{suffix}")
        assert len(list(read_video(path))) == 12, suffix


def test_what_is_no_video_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    source = FileSource([SourceFile(tmp_path / "a.mp4", "a")])
    assert source.total is None
    (item,) = source.shots(NEVER)
    assert isinstance(item, Unreadable)
    assert "not a video that can be read (Invalid data" in str(item.error)


def test_a_video_is_named_for_its_container(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"a video is named NAME\.mp4"):
        VideoWriter(tmp_path / "out.png")


def test_frames_keep_their_times_and_times_that_start_anew_go_on(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    video = VideoWriter(path)
    for seconds in (0.0, 0.04, 0.5, 0.0, 0.04, None):
        video.write(flat(90, 49, 65), seconds)  # odd sides: the last row and column go
    assert not path.exists()
    video.close()
    found = list(read_video(path))
    assert [frame.seconds for frame in found] == pytest.approx([0, 0.04, 0.5, 1.0, 1.04, 1.54])
    assert found[0].pixels.shape == (48, 64, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_frame_of_another_size_is_refused_and_the_video_is_kept(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "out.mp4")
    video.write(flat(90), 0)
    with pytest.raises(BadInput, match="a frame of 32×48 in a video of 64×48"):
        video.write(flat(90, 48, 32), 1)
    video.close()
    assert count_frames(tmp_path / "out.mp4") == 1


# ---- cameras


def test_what_is_a_camera(tmp_path: Path) -> None:
    assert is_live("rtsp://10.0.0.2/stream")
    assert is_live("/dev/null")  # a character device, as cameras are
    assert not is_live(str(tmp_path))
    assert not is_live("/dev/video99")  # absent: a file that is not there


class Camera:
    """Connections that each give some frames, and then fail or end."""

    def __init__(self, *connections: int | None) -> None:
        self.connections = list(connections)
        self.opened = 0

    def __call__(self, url: str) -> Iterator[VideoFrame]:
        frames = self.connections[min(self.opened, len(self.connections) - 1)]
        self.opened += 1
        if frames is None:
            raise BadInput("no picture (gone)", where=url)
        for _ in range(frames):
            yield VideoFrame(flat(50), None, damaged=False)


def live(camera: Camera, said: list[str], patience: float = 60.0) -> LiveSource:
    return LiveSource("rtsp://drone", report=said.append, patience_s=patience, read=camera)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.live._FIRST_WAIT_S", 0.001)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.faults
def test_a_camera_that_vanishes_and_returns_goes_on() -> None:
    said: list[str] = []
    camera = Camera(2, None, None, 3, None)
    source = live(camera, said, patience=0.1)
    shots: list[Any] = []
    with pytest.raises(
        DeviceLost, match=r"rtsp://drone: vanished \(no picture \(gone\)\), and did"
    ):
        shots.extend(source.shots(NEVER))
    assert [shot.name for shot in shots] == [f"live_{n:06d}" for n in range(5)]
    assert source.reconnects == 1
    assert said[0] == "rtsp://drone: vanished (it has ended); trying again in 0.001 s"
    assert said[1].endswith("trying again in 0.002 s")  # backing off
    assert "rtsp://drone: there again" in said
    assert all(shot.capture.time and shot.capture.time.endswith("+00:00") for shot in shots)
    assert shots == sorted(shots, key=lambda shot: shot.clock)


@pytest.mark.parametrize(("first", "words"), [(None, "gone"), (0, "ended before the first")])
def test_a_camera_that_is_not_there_is_not_waited_for(first: int | None, words: str) -> None:
    camera = Camera(first)
    with pytest.raises(BadInput, match=words):
        next(live(camera, []).shots(NEVER))
    assert camera.opened == 1


def test_a_stop_ends_the_wait_for_a_camera() -> None:
    stop = threading.Event()
    said: list[str] = []
    source = LiveSource(
        "rtsp://drone", report=lambda text: (said.append(text), stop.set()), read=Camera(1, None)
    )
    assert len(list(source.shots(stop))) == 1
    assert len(said) == 1


@pytest.mark.faults
def test_a_real_stream_over_the_network_dies_and_returns(no_waiting: None) -> None:
    """MPEG-TS over TCP, read by FFmpeg, served twice."""
    data = BytesIO()
    with av.open(data, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "1", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(flat(20 * number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(data.getvalue())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        source = LiveSource(url, report=lambda _: None)
        shots = []
        stop = threading.Event()
        for shot in source.shots(stop):
            assert isinstance(shot, Shot)
            shots.append(shot)
            if source.reconnects and len(shots) >= 12:
                stop.set()
        thread.join(10)
    assert source.reconnects == 1
    assert {shot.frame.pixels.shape for shot in shots} == {(48, 64, 3)}
    assert shots[0].frame.pixels.mean() < 40


# ---- EXIF


def test_an_image_without_exif_says_nothing(tmp_path: Path) -> None:
    Image.fromarray(flat(9)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"broken")
    assert read_capture(tmp_path / "a.png") == Capture()
    assert read_capture(tmp_path / "b.jpg") == Capture()


def test_south_west_and_below_the_sea_are_negative(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(
        {1: "S", 2: (33.0, 30.0, 36.0), 3: "W", 4: (70.0, 0.0, 0.0), 5: b"\1", 6: 12.5}
    )
    exif.get_ifd(0x8769).update({0x9003: "2024:02:03 04:05:06", 0x9291: "789", 0x9011: "-03:00"})
    Image.fromarray(flat(9)).save(tmp_path / "a.jpg", exif=exif)
    capture = read_capture(tmp_path / "a.jpg")
    assert capture.position == Position(-33.51, -70.0, -12.5)
    assert capture.time == "2024-02-03T04:05:06.789-03:00"
    assert capture.ground_sample_distance_m is None


ZERO, UNKNOWN = IFDRational(0, 1), IFDRational(0, 0)
NORTH = {1: "N", 2: (46.0, 50.0, 33.0)}
EAST = {3: "E", 4: (10.0, 0.0, 0.0)}


@pytest.mark.parametrize(
    "gps",
    [
        {1: "N", 2: (ZERO,) * 3, 3: "E", 4: (ZERO,) * 3},
        {1: "N", 2: (ZERO,) * 3, 3: "E", 4: (ZERO,) * 3, 5: b"\0", 6: ZERO},
        {1: "S", 2: (ZERO,) * 3, 3: "W", 4: (ZERO,) * 3, 6: 120.5},
        {1: "N", 2: (UNKNOWN,) * 3, 3: "E", 4: (UNKNOWN,) * 3, 5: b"\0", 6: UNKNOWN},
        {**NORTH, 3: "E", 4: (UNKNOWN,) * 3},
        NORTH,
        EAST,
        {**NORTH, **EAST, 9: "V"},
        {**NORTH, **EAST, 1: "\0"},
        {**NORTH, **EAST, 2: (91.0, 0.0, 0.0)},
        {**NORTH, **EAST, 4: (10.0, 0.0)},
    ],
    ids=["zeros", "zeros and altitude", "minus zero", "0/0", "half 0/0", "latitude", "longitude",
         "void", "no hemisphere", "91 degrees", "two numbers"],
)  # fmt: skip
@pytest.mark.faults
def test_without_a_fix_there_is_no_position(tmp_path: Path, gps: dict[int, Any]) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(gps)
    exif.get_ifd(0x8769)[0x9003] = "2024:02:03 04:05:06"
    Image.fromarray(flat(9)).save(tmp_path / "a.jpg", exif=exif)
    assert read_capture(tmp_path / "a.jpg") == Capture(time="2024-02-03T04:05:06")


@pytest.mark.parametrize("gps", [{**NORTH, **EAST, 9: "A"}, {**NORTH, **EAST, 3: "e\0"}])
def test_a_fix_is_a_position(tmp_path: Path, gps: dict[int, Any]) -> None:
    """46° 50′ 33″ is 46 + 3033/3600; a place on the equator or on Greenwich's meridian is one, too."""
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(gps)
    Image.fromarray(flat(9)).save(tmp_path / "a.jpg", exif=exif)
    assert read_capture(tmp_path / "a.jpg").position == Position(46.8425, 10.0, None)
    exif.get_ifd(0x8825)[2] = (ZERO,) * 3
    Image.fromarray(flat(9)).save(tmp_path / "a.jpg", exif=exif)
    assert read_capture(tmp_path / "a.jpg").position == Position(0.0, 10.0, None)


@pytest.mark.parametrize("text", ["0000:00:00 00:00:00", "", "noon"])
def test_a_senseless_time_is_none(tmp_path: Path, text: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = text
    Image.fromarray(flat(9)).save(tmp_path / "a.jpg", exif=exif)
    assert read_capture(tmp_path / "a.jpg") == Capture()


@pytest.mark.shared
def test_real_frames_say_when_and_where_they_were_taken() -> None:
    capture = read_capture(BRIGHTON / "images_1600x900" / "DJI_0018.jpg")
    assert capture.time == "2016-06-23T16:31:59"
    assert capture.position == Position(46.84260708, -91.99455989, 198.309)
    assert capture.ground_sample_distance_m is None  # its XMP, with the height, is gone


@pytest.mark.shared
def test_height_and_lens_give_the_ground_sample_distance(tmp_path: Path) -> None:
    """40.1 m above ground, 20 mm on film: 1.71 cm by the sensor's width (6.17 mm, 3.61 mm, 4000)."""
    original = BRIGHTON / "images_full" / "DJI_0026.JPG"
    capture = read_capture(original)
    assert capture.ground_sample_distance_m == pytest.approx(0.0171, rel=0.12)
    loveda, dubai = load_vocabulary("loveda"), load_vocabulary("dubai")
    assert capture.attitude == Attitude(0.0, -89.9, -132.0, of="camera")
    assert "0.019 m on the ground" in str(scale_warning(capture, loveda))
    assert scale_warning(capture, dubai) is None  # it states none
    assert scale_warning(Capture(), loveda) is None
    assert scale_warning(Capture(ground_sample_distance_m=0.25), loveda) is None

    with Image.open(original) as image:
        small, cut = image.resize((1000, 563)), image.crop((0, 0, 1000, 1000))
        packet = {"exif": image.info["exif"], "xmp": image.info["xmp"]}
    small.save(tmp_path / "small.jpg", **packet)
    cut.save(tmp_path / "cut.jpg", **packet)
    oblique = {**packet, "xmp": packet["xmp"].replace(b"-89.90", b"-45.00")}
    small.save(tmp_path / "oblique.jpg", **oblique)
    found = read_capture(tmp_path / "small.jpg").ground_sample_distance_m
    assert found == pytest.approx(4 * capture.ground_sample_distance_m, rel=0.01)
    flown = {**packet, "xmp": packet["xmp"].replace(b"GimbalYaw", b"GimbalNotYaw")}
    small.save(tmp_path / "flown.jpg", **flown)
    assert read_capture(tmp_path / "flown.jpg").attitude == Attitude(0.4, -1.8, -129.9)
    assert read_capture(tmp_path / "cut.jpg").ground_sample_distance_m is None
    assert read_capture(tmp_path / "oblique.jpg").ground_sample_distance_m is None
    assert read_frame(tmp_path / "small.jpg").pixels.shape == (563, 1000, 3)

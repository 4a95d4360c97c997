"""Films that are damaged, turned, cut or called by another name: all that can be decoded is labelled."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.errors import BadInput, DeviceLost
from segclip_deploy.runtime.io.sources.base import Shot, Unreadable
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.listing import count_folders, find_files
from segclip_deploy.runtime.io.sources.live import LiveSource
from segclip_deploy.runtime.io.sources.naming import SourceFile
from segclip_deploy.runtime.io.sources.video import read_video
from tests.support.fake_cli import open_fake
from tests.support.films import blank, make_film, packets_of, textured
from tests.support.helpers import call

pytestmark = pytest.mark.faults

NEVER = threading.Event()


def read(path: Path, said: list[str] | None = None) -> tuple[list[Shot], list[Unreadable]]:
    """The frames of a file, and what is wrong with it."""
    report = said.append if said is not None else lambda _: None
    items = list(FileSource([SourceFile(path, "f")], report=report).shots(NEVER))
    shots = [item for item in items if isinstance(item, Shot)]
    return shots, [item for item in items if isinstance(item, Unreadable)]


def damaged(shots: list[Shot]) -> list[int]:
    return [number for number, shot in enumerate(shots) if shot.damaged]


# ---- damage


def test_a_damaged_packet_costs_no_frame_and_marks_those_up_to_the_next_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 bytes of a key frame, as lost by an SD card: 250 frames, 25 of them from the damage on."""
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)
    film = make_film(tmp_path / "film.mp4", 250, g="25", bf="0")
    place, size, key = packets_of(film)[25]
    assert key
    assert size > 600
    blank(film, place + 100, 400)
    out = tmp_path / "out"
    result = call("run", "engine", film, "-o", out, "--no-overlay", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["done"], report["damaged"], report["bad"]) == (250, 25, 0)
    lines = [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines if line.get("damaged")] == list(range(25, 50))
    assert all(line.get("damaged", True) is True for line in lines)
    assert f"{film}: 25 frames are damaged, and marked so" in result.stderr
    told = call("run", "engine", film, "-o", out, "--no-overlay")
    assert "250 of 250 frames, 25 damaged" in told.stdout


def test_a_packet_between_key_frames_damages_those_after_it_only(tmp_path: Path) -> None:
    """A packet that is no picture at all gives no frame: one place fewer, and the mark from there."""
    film = make_film(tmp_path / "film.avi", 40, codec="mpeg4", g="10", bf="0")
    place, size, key = packets_of(film)[13]
    assert not key
    blank(film, place + 8, size - 8)
    shots, bad = read(film)
    assert len(shots) in (39, 40)
    gone = 40 - len(shots)
    assert damaged(shots) == list(range(13, 20 - gone))
    assert len(bad) == gone


def test_packets_lost_by_a_radio_link_are_noticed(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.ts", 60, g="20", bf="0")
    places = packets_of(film)
    data = film.read_bytes()
    lost = places[31][0]
    assert data[lost] == ord("G")
    film.write_bytes(data[:lost] + data[lost + 188 :])  # frame 31, whose packet is that small
    shots, _ = read(film)
    assert len(shots) >= 59
    marked = [shots[n].seconds for n in damaged(shots)]
    start = shots[0].seconds
    assert marked
    assert start is not None
    numbers = [round(25 * (seconds - start)) for seconds in marked if seconds is not None]
    # The demuxer marks the packet that it puts together when it misses one.
    assert 29 <= numbers[0] <= 32
    assert numbers[-1] == 39
    assert set(numbers) | {31} == set(range(numbers[0], 40))


def test_frames_are_marked_by_their_order_in_the_file(tmp_path: Path) -> None:
    """B frames are shown before the damaged frame that they are decoded from."""
    film = make_film(tmp_path / "film.mp4", 50, g="25", bf="3", b_adapt="0")
    packets = packets_of(film)
    with av.open(str(film)) as container:
        packs = [p for p in container.demux(container.streams.video[0]) if p.size]
        shown = [round(25 * float(p.pts * p.time_base)) for p in packs]
    # A P frame, and two B frames after it in the file, which are shown before it.
    number = next(n for n in range(30, 45) if shown[n] > max(shown[n + 1], shown[n + 2]))
    place, size, _ = packets[number]
    blank(film, place + 40, size - 40)
    shots, bad = read(film)
    assert (len(shots), bad) == (50, [])
    assert damaged(shots) == sorted(shown[number:])
    assert min(shown[number + 1 :]) < shown[number]


@pytest.mark.parametrize("lost", [25, 37])
def test_a_packet_that_gives_no_frame_and_no_error_is_missed(tmp_path: Path, lost: int) -> None:
    """MPEG-2 skips what is no picture: its decoder says nothing of zeros."""
    film = make_film(tmp_path / "film.mkv", 50, codec="mpeg2video", g="20", bf="0")
    place, size, _ = packets_of(film)[lost]
    data = film.read_bytes()
    start = data.index(b"\0\0\x01\0", place)  # the picture, behind the block's header
    assert start < place + 12
    blank(film, start, size)
    shots, (bad,) = read(film)
    assert len(shots) == 49
    assert damaged(shots) == list(range(lost, 39))
    assert "no frame could be decoded in 1 places" in str(bad.error)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "mpeg4", "libvpx", "libvpx-vp9"])
def test_a_sound_film_is_not_called_damaged(tmp_path: Path, codec: str) -> None:
    """Also one of B frames, fields, or packets that are not shown."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    more = {"flags": "+ildct+ilme"} if codec in ("libx264", "mpeg2video") else {}
    for number, options in enumerate(({"bf": "3"}, more)):
        film = make_film(tmp_path / f"{number}.mkv", 60, codec=codec, g="25", **options)
        shots, bad = read(film)
        assert (len(shots), bad, damaged(shots)) == (60, [], [])


def test_damage_in_a_key_frame_marks_its_own_group_only(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", 50, g="25", bf="3")
    whole = len(read(film)[0])
    packets = packets_of(film)
    keys = [number for number, packet in enumerate(packets) if packet[2]]
    assert keys[:2] == [0, 25]
    place, size, _ = packets[25]
    blank(film, place + 100, size // 2)
    shots, _ = read(film)
    assert len(shots) == whole == 50
    assert damaged(shots) == list(range(25, 50))


def test_every_frame_of_mjpeg_is_its_own_and_one_damaged_costs_one(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.avi", 20, codec="mjpeg")
    place, size, _ = packets_of(film)[7]
    blank(film, place + 8, size - 8)
    shots, bad = read(film)
    assert len(shots) == 19
    assert damaged(shots) == []
    (item,) = bad
    assert item.error.what == (
        "damaged: no frame could be decoded in 1 places; the 19 others are done"
    )


@pytest.mark.parametrize(("codec", "lost"), [("libx264", 0), ("mpeg2video", 0), ("libx264", 17)])
def test_a_camera_marks_damage_as_a_film_does(tmp_path: Path, codec: str, lost: int) -> None:
    """MPEG-TS over TCP: bytes set to zero, or packets lost by the link. It is not opened anew."""
    film = make_film(tmp_path / "film.ts", 60, codec=codec, container="mpegts", g="20", bf="0")
    place, _, key = packets_of(film)[25]
    assert not key
    data = bytearray(film.read_bytes())
    first = place - place % 188
    data[first + 188 : first + 188 * (2 + lost)] = b"" if lost else bytes(188)
    film.write_bytes(data)
    expected, _ = read(film)
    assert 25 in damaged(expected) or 26 in damaged(expected)
    assert max(damaged(expected)) < 40

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        source = LiveSource(url, report=lambda _: None, patience_s=0)
        shots = []
        with pytest.raises(DeviceLost, match="vanished"):
            shots.extend(item for item in source.shots(NEVER) if isinstance(item, Shot))
        thread.join(10)
    assert damaged(shots) == damaged(expected)
    for shot, frame in zip(shots, expected, strict=True):
        np.testing.assert_array_equal(shot.frame.pixels, frame.frame.pixels)


def test_damage_at_the_very_end_ends_well(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", 30, g="10", bf="0")
    for place, size, _ in packets_of(film)[-2:]:
        blank(film, place + 4, size - 4)
    shots, bad = read(film)
    assert len(shots) >= 28
    assert all(shots[n].damaged for n in range(28, len(shots)))
    assert len(bad) == (len(shots) < 30)
    assert damaged(shots)[:1] in ([], [28])


# ---- films that begin in their midst


@pytest.mark.parametrize(
    ("name", "codec", "left_out"),
    [("a.ts", "libx264", 30), ("b.ts", "mpeg2video", 10), ("c.mkv", "mpeg4", 33)],
)
def test_a_film_that_begins_between_key_frames_is_done_from_the_next(
    tmp_path: Path, name: str, codec: str, left_out: int
) -> None:
    film = make_film(tmp_path / name, 80, codec=codec, first=left_out, g="25", bf="0")
    said: list[str] = []
    shots, bad = read(film, said)
    first = -(-left_out // 25) * 25
    assert bad == []
    assert len(shots) == 80 - first
    assert not damaged(shots)
    apart = np.abs(shots[0].frame.pixels.astype(int) - textured(first)).mean()
    assert apart < 20
    seconds = (first - left_out) / 25
    (line,) = said
    assert line.startswith(f"{film}: begins between two key frames: its first {seconds:.2f} s")


# ---- rotation

# What a player shows of stored pixels by each matrix (a, b, c, d) of ISO/IEC 14496-12.
TURNS: dict[tuple[int, int, int, int], Any] = {
    (1, 0, 0, 1): lambda p: p,
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),  # clockwise, a phone held upright
    (-1, 0, 0, -1): lambda p: np.rot90(p, 2),
    (0, -1, 1, 0): lambda p: np.rot90(p, 1),
    (-1, 0, 0, 1): lambda p: p[:, ::-1],
    (1, 0, 0, -1): lambda p: p[::-1],
    (0, 1, 1, 0): lambda p: p.swapaxes(0, 1),
}


def quadrants() -> NDArray[np.uint8]:
    pixels = np.zeros((96, 128, 3), np.uint8)
    pixels[:48, :64], pixels[:48, 64:], pixels[48:, :64] = 255, 170, 85
    return pixels


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A film whose track header (tkhd) has such a matrix."""
    make_film(path, 3, pixels=quadrants())
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (65536 * value for value in matrix)
    assert struct.unpack(">i", data[start : start + 4]) == (65536,)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("matrix", TURNS)
def test_a_film_is_turned_as_players_show_it(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    film = turned(tmp_path / "film.mp4", matrix)
    frames = list(read_video(film))
    expected = TURNS[matrix](quadrants())
    assert [frame.pixels.shape for frame in frames] == [expected.shape] * 3
    assert all(frame.pixels.flags.c_contiguous for frame in frames)
    assert np.abs(frames[0].pixels.astype(int) - expected).mean() < 5
    if shutil.which("ffmpeg") and 0 not in (matrix[0] + matrix[1], matrix[2] + matrix[3]):
        raw = subprocess.run(
            ["ffmpeg", "-v", "quiet", "-i", film, "-f", "rawvideo", "-pix_fmt", "gray", "-"],
            capture_output=True,
            check=True,
        ).stdout
        shown = np.frombuffer(raw, np.uint8).reshape(3, *expected.shape[:2])
        assert np.abs(shown[0].astype(int) - expected[..., 0]).mean() < 5


def test_labels_are_turned_with_the_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)
    film = turned(tmp_path / "film.mp4", (0, 1, -1, 0))
    assert call("run", "engine", film, "-o", tmp_path / "out").exit_code == 0
    for name in ("film_000000.png", "film_000000.overlay.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (96, 128)


def test_a_title_in_another_coding_is_no_obstacle(tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as container:
        container.metadata["title"] = "Flug ueber Bruecken"
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(textured(0), format="rgb24")))
        container.mux(stream.encode(None))
    film.write_bytes(film.read_bytes().replace(b"ueber", b"\xfcber "))
    shots, bad = read(film)
    assert (len(shots), bad) == (1, [])


def test_a_film_of_huge_frames_is_refused_before_any_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = make_film(tmp_path / "film.mp4", 3)
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.video.MOST_FRAME_PIXELS", 128 * 96 - 1)
    shots, (bad,) = read(film)
    assert shots == []
    assert str(bad.error) == f"{film}: frames of over 12287 pixels"


def test_an_odd_angle_is_said(tmp_path: Path) -> None:
    film = turned(tmp_path / "film.mp4", (1, 1, -1, 1))
    said: list[str] = []
    shots, _ = read(film, said)
    assert shots[0].frame.pixels.shape == (96, 128, 3)
    assert said == [f"{film}: its metadata turn it by an odd angle; labels are as it is stored"]


# ---- containers, whatever they are called


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *(("mpegts", "libx264"), ("mpeg", "mpeg2video"), ("mjpeg", "mjpeg"), ("mp4", "libx264")),
        *(("matroska", "libx264"), ("avi", "mpeg4"), ("flv", "libx264"), ("asf", "mpeg4")),
        *(("h264", "libx264"), ("mpeg2video", "mpeg2video"), ("m4v", "mpeg4"), ("mov", "mjpeg")),
        *(("nut", "mpeg4"), ("mpjpeg", "mjpeg")),
    ],
)
@pytest.mark.parametrize("name", ["film", "film.jpg", "film.mts"])
def test_a_film_is_known_by_its_content(
    tmp_path: Path, container: str, codec: str, name: str
) -> None:
    film = make_film(tmp_path / name, 10, codec=codec, container=container, bf="0")
    if name == "film.jpg" and container == "mjpeg":
        pytest.skip("a JPEG that others follow: cameras append previews to their photographs")
    shots, bad = read(film)
    assert (len(shots), bad) == (10, [])
    assert [shot.name for shot in shots] == [f"f_{n:06d}" for n in range(10)]


def test_a_film_that_begins_within_a_packet_is_one(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film", 30, container="mpegts", g="5", bf="0")
    film.write_bytes(film.read_bytes()[100:])
    assert SourceFile(film, "f").is_film


def test_a_picture_stays_one_whatever_it_is_called(tmp_path: Path) -> None:
    for kind, name in (("JPEG", "a"), ("PNG", "b.mp4"), ("JPEG", "c.mjpeg"), ("TIFF", "d")):
        Image.fromarray(textured(0)).save(tmp_path / name, kind)
        shots, bad = read(tmp_path / name)
        assert (len(shots), bad) == (1, [])
        assert shots[0].name == "f"


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{film}'\n",
        "1\n00:00:00,000 --> 00:00:09,000\nletters\n",
        "<?xml version='1.0'?><MPD><Period><BaseURL>{film}</BaseURL></Period></MPD>",
    ],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.ts", "list", "picture.mp4"])
def test_a_list_of_films_opens_none(tmp_path: Path, text: str, name: str) -> None:
    film = make_film(tmp_path / "film.mp4", 3)
    (tmp_path / name).write_text(text.format(film=film))
    if name == "picture.mp4":  # of a format that FFmpeg knows, and that is not on the list
        (tmp_path / name).write_bytes(b"P6\n8 8\n255\n" + bytes(8 * 8 * 3))
    shots, bad = read(tmp_path / name)
    assert shots == []
    assert len(bad) == 1


def test_a_name_with_a_protocol_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    film = make_film(tmp_path / "film.mp4", 3)
    for name in ("concat:film.mp4|film.mp4", "subfile,,start,0,end,9,,:film.mp4"):
        shutil.copy(film, name)
        assert len(read(Path(name))[0]) == 3


# ---- pages


def saved(path: Path, count: int, **options: Any) -> Path:
    pages = [Image.fromarray(textured(number)) for number in range(count)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


@pytest.mark.parametrize(
    ("name", "options", "seconds"),
    [
        ("a.tif", {}, [None] * 5),
        ("a.png", {"duration": 200}, [0, 0.2, 0.4, 0.6, 0.8]),
        ("a.webp", {"duration": 100, "lossless": True}, [0, 0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_every_page_is_read(
    tmp_path: Path, name: str, options: dict[str, Any], seconds: list[float | None]
) -> None:
    path = saved(tmp_path / name, 5, **options)
    source = FileSource([SourceFile(path, "f")])
    shots, bad = read(path)
    assert source.total == 5
    assert bad == []
    assert [shot.name for shot in shots] == [f"f_{n:06d}" for n in range(5)]
    for number, shot in enumerate(shots):
        np.testing.assert_array_equal(shot.frame.pixels, textured(number))
    assert [shot.seconds for shot in shots] == [
        time if time is None else pytest.approx(time) for time in seconds
    ]


def test_a_gif_is_read_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.gif", 4, duration=50)
    shots, bad = read(path)
    assert (len(shots), bad) == (4, [])
    for number, shot in enumerate(shots):
        assert np.abs(shot.frame.pixels.astype(int) - textured(number)).mean() < 6


def test_smaller_copies_of_a_page_are_none(tmp_path: Path) -> None:
    """Overviews (NewSubfileType 1) and masks (4), as GDAL writes them."""
    path = tmp_path / "a.tif"
    page = Image.fromarray(textured(0))
    copies = []
    for kind in (1, 4):
        copy = page.resize((32, 24))
        copy.encoderinfo = {"tiffinfo": {254: kind}}
        copies.append(copy)
    page.save(path, save_all=True, append_images=copies)
    with Image.open(path) as image:
        assert image.n_frames == 3
    shots, bad = read(path)
    assert [shot.name for shot in shots] == ["f"]
    assert bad == []


def test_a_page_that_is_no_8_bit_rgb_is_refused_by_its_number(tmp_path: Path) -> None:
    deep = Image.fromarray(np.zeros((24, 32), np.uint16))
    Image.fromarray(textured(0)).save(tmp_path / "a.tif", save_all=True, append_images=[deep])
    shots, (bad,) = read(tmp_path / "a.tif")
    assert len(shots) == 1
    assert str(bad.error).startswith(f"{tmp_path / 'a.tif'}, page 2: the page is of")
    glass = Image.new("RGBA", (32, 24), (9, 9, 9, 0))
    glass.save(tmp_path / "b.png", save_all=True, append_images=[Image.new("RGBA", (32, 24))])
    shots, (bad,) = read(tmp_path / "b.png")
    assert shots == []
    assert "page 1: the page is of mode RGBA, transparent in places" in str(bad.error)


# ---- folders


def test_a_folder_includes_its_films(tmp_path: Path) -> None:
    folder = tmp_path / "card"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(textured(0)).save(folder / "a.png")
    make_film(folder / "DJI_1.MP4", 3)
    shutil.copy(folder / "DJI_1.MP4", folder / "DJI_1.LRF")  # its small copy
    make_film(folder / "sub" / "bare", 3, container="mpegts")
    (folder / "notes.txt").write_text("#EXTM3U\nsub/bare\n")
    (folder / "._DJI_1.MP4").write_bytes(bytes(100))
    files = find_files([folder], tmp_path / "out")
    assert [file.name for file in files] == ["DJI_1", "a", "sub/bare"]
    assert count_folders(files) == "1 images and 2 videos in 2 folders"
    shots = list(FileSource(files).shots(NEVER))
    assert len(shots) == 7
    assert [file.name for file in find_files([folder], tmp_path / "out", videos=False)] == ["a"]


def test_a_film_whose_frames_would_overwrite_a_pictures_results_is_refused(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", 2)
    saved(tmp_path / "a.tif", 2)
    with pytest.raises(BadInput, match="its results would overwrite those of"):
        find_files([tmp_path], tmp_path / "out")


def test_frames_are_bounded_in_memory_and_a_reader_that_leaves_ends_the_film(
    tmp_path: Path,
) -> None:
    film = make_film(tmp_path / "film.mp4", 60)
    frames = read_video(film)
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    with av.open(str(film)) as container:  # nothing holds it
        assert container.streams.video[0].frames == 60

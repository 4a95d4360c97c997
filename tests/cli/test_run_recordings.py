"""``run`` of ROS 2 recordings, and ``--mcap``: from the first message to the last file."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from PIL import Image
from rosbags.highlevel import AnyReader
from scipy.spatial.transform import Rotation

from tests.conftest import ROOT
from tests.support import recordings as made
from tests.support.fake_cli import open_fake
from tests.support.films import make_film
from tests.support.helpers import call

S, START, STEP = made.S, made.START, made.STEP


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)


def run(*words: object, code: int = 0) -> Result:
    done = call("run", "engine", *words)
    assert done.exit_code == code, done.output
    return done


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "areas.jsonl").open()]


@pytest.fixture(scope="module")
def labels_of_pictures(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The label maps that ``run`` writes of the same pictures as PNG."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "in").mkdir()
    for n in range(5):
        Image.fromarray(made.picture(n)).save(folder / "in" / f"{n}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)
        run(folder / "in", "-o", folder / "out", "--no-overlay")
    return [(folder / "out" / f"{n}.png").read_bytes() for n in range(5)]


RECORDED = {
    "mcap": lambda p: made.write_mcap(p / "flight.mcap", made.images(5)),
    "folder of mcap": lambda p: made.write_rosbag(p / "flight", made.images(5, encoding="bgr8")),
    "folder of sqlite": lambda p: made.write_rosbag(p / "flight", made.images(5), "sqlite3"),
    "chunks of zstd": lambda p: made.write_chunks(p / "flight.mcap", made.images(5)),
    "chunks of lz4": lambda p: made.write_chunks(p / "flight.mcap", made.images(5), "LZ4"),
    "compressed": lambda p: made.write_mcap(
        p / "flight.mcap", made.images(5, made.compressed, "/camera/compressed")
    ),
}


@pytest.mark.parametrize("kind", RECORDED)
def test_labels_of_a_recording_are_those_of_its_pictures_to_the_byte(
    kind: str, labels_of_pictures: list[bytes], tmp_path: Path
) -> None:
    path, out = RECORDED[kind](tmp_path), tmp_path / "out"
    done = run(path, "-o", out, "--no-overlay")
    assert "5 of 5 frames" in done.stdout
    written = [(out / f"flight_{n:06d}.png").read_bytes() for n in range(5)]
    assert written == labels_of_pictures
    for n, line in enumerate(lines(out)):
        assert line["image"] == str(path)
        assert line["time"] == f"2026-05-28T20:26:40.{n}00+00:00"
        assert line["seconds"] == n / 10


def test_grey_images_are_read_with_the_option_that_their_error_quotes(tmp_path: Path) -> None:
    grey = [made.picture(n)[..., 2] for n in range(3)]
    messages = [
        ("/camera", START + n * STEP, made.image(START + n * STEP, one, "mono8"))
        for n, one in enumerate(grey)
    ]
    path = made.write_mcap(tmp_path / "flight.mcap", messages)
    done = run(path, "-o", tmp_path / "o", code=1)
    assert done.stderr.count("--bands 1,1,1") == 3
    run(path, "-o", tmp_path / "out", "--bands", "1,1,1", "--no-overlay")
    for n, one in enumerate(grey):  # the engine's classes are five bands of blue
        with Image.open(tmp_path / "out" / f"flight_{n:06d}.png") as labels:
            assert (np.asarray(labels) == (one / 256 * 5).astype(np.uint8)).all()
    done = run(path, "-o", tmp_path / "p", "--scale", "0,9", code=2)
    assert "--scale is for images and rasters, and there is none" in done.stderr


# ---- topics


def two_topics(path: Path) -> Path:
    return made.write_mcap(path, [*made.images(2), *made.images(3, topic="/thermal")])


def test_the_topic_is_asked_for_where_there_are_several(tmp_path: Path) -> None:
    path = two_topics(tmp_path / "flight.mcap")
    done = run(path, "-o", tmp_path / "o", code=1)
    assert done.stderr.strip().endswith(
        f"{path}: has images of more than one topic: /camera (2), /thermal (3); "
        "choose with --topic /camera"
    )
    run(path, "-o", tmp_path / "o", "--topic", "/thermal")
    assert len(lines(tmp_path / "o")) == 3
    done = run(path, "-o", tmp_path / "p", "--topic", "/other", code=1)
    assert "has no images of /other: /camera (2), /thermal (3)" in done.stderr
    done = run(make_film(tmp_path / "a.mp4", 2), "-o", tmp_path / "q", "--topic", "/a", code=2)
    assert "--topic: is for recordings" in done.stderr


@pytest.mark.faults
@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda p: (p / "flight.mcap").write_bytes(b"no recording"), "flight.mcap: no MCAP"),
        (lambda p: (p / "flight.mcap").write_bytes(b""), "flight.mcap: no MCAP"),
        (lambda p: (p / "flight.mcap").mkdir(), "no images in this folder"),
        (lambda p: made.write_mcap(p / "flight.mcap", [("/gps", START, made.fix(START, 1, 2))]),
         "flight.mcap: no images in it"),
        (lambda p: (made.write_rosbag(p / "flight.mcap", made.images(2)) / "metadata.yaml").unlink(),
         "as where the recorder was killed; name the files that are there: segclip-deploy run ENGINE "),
        (lambda p: (made.write_rosbag(p / "flight.mcap", made.images(2)) / "flight.mcap.mcap").unlink(),
         "flight.mcap.mcap of it is missing"),
    ],
    ids=["text", "empty", "folder", "no images", "no metadata", "a file missing"],
)  # fmt: skip
def test_what_is_no_recording_is_told_in_a_line(write: Any, said: str, tmp_path: Path) -> None:
    write(tmp_path)
    done = run(tmp_path / "flight.mcap", "-o", tmp_path / "out", code=1)
    (line,) = done.stderr.strip().splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


# ---- damage


@pytest.mark.faults
def test_a_recording_cut_off_is_done_as_far_as_it_goes(
    labels_of_pictures: list[bytes], tmp_path: Path
) -> None:
    """Of 40 images of 40 kB, in chunks of 1 MB: the first chunk is whole."""
    messages = [
        ("/camera", START + n * STEP, made.image(START + n * STEP, made.picture(n, 100, 140)))
        for n in range(40)
    ]
    path, out = made.write_mcap(tmp_path / "flight.mcap", messages), tmp_path / "out"
    run(path, "-o", tmp_path / "whole", "--no-overlay")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 8 // 10])
    done = run(path, "-o", out, "--no-overlay", code=1)
    assert "25 of 26 frames, 1 bad" in done.stdout
    assert f"error: {path}: it ends before its end was written" in done.stderr
    for n in range(25):
        name = f"flight_{n:06d}.png"
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.faults
def test_a_damaged_part_is_passed_over(tmp_path: Path) -> None:
    path = made.write_chunks(tmp_path / "flight.mcap", made.images(5))
    with path.open("rb") as stream:
        third = make_reader(stream).get_summary().chunk_indexes[2]
    data = bytearray(path.read_bytes())
    data[third.chunk_start_offset + third.chunk_length // 2] ^= 255
    path.write_bytes(data)
    done = run(path, "-o", tmp_path / "out", "--no-overlay", code=1)
    assert "4 of 5 frames, 1 bad" in done.stdout
    assert f"error: {path}: a part of it is damaged, and left out" in done.stderr
    assert [line["seconds"] for line in lines(tmp_path / "out")] == [0, 0.1, 0.3, 0.4]


@pytest.mark.faults
def test_an_image_that_cannot_be_read_costs_itself(tmp_path: Path) -> None:
    messages = made.images(4)
    messages[1] = (messages[1][0], messages[1][1], made.image(START + STEP, made.picture(1)[:9]))
    messages[1][2].height = 50
    messages[2][2].encoding = "bayer_rggb8"
    path = made.write_mcap(tmp_path / "flight.mcap", messages)
    done = run(path, "-o", tmp_path / "out", code=1)
    assert "2 of 4 frames, 2 bad" in done.stdout
    assert [line["index"] for line in lines(tmp_path / "out")] == [0, 3]
    assert (tmp_path / "out" / "flight_000003.png").exists()
    assert done.stderr.count(f"error: {path}: ") == 2


@pytest.mark.faults
def test_a_database_cut_off_is_done_as_far_as_it_goes(
    labels_of_pictures: list[bytes], tmp_path: Path
) -> None:
    folder = made.write_rosbag(tmp_path / "flight", made.images(40), "sqlite3")
    (file,) = folder.glob("*.db3")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = run(folder, "-o", tmp_path / "out", "--no-overlay", code=1)
    assert f"error: {folder}: it cannot be read to its end (" in done.stderr
    assert (tmp_path / "out" / "flight_000004.png").read_bytes() == labels_of_pictures[4]
    assert 15 <= len(lines(tmp_path / "out")) < 20


@pytest.mark.faults
def test_what_a_killed_recorder_left_in_the_log_beside_a_database_is_read(tmp_path: Path) -> None:
    folder = made.write_rosbag(tmp_path / "flight", made.images(9), "sqlite3")
    (file,) = folder.glob("*.db3")
    (tmp_path / "killed").mkdir()
    with contextlib.closing(sqlite3.connect(file)) as base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("DELETE FROM messages WHERE id > 6")
        base.commit()
        for part in folder.glob("*.db3*"):
            shutil.copy(part, tmp_path / "killed")
    run(tmp_path / "killed" / file.name, "-o", tmp_path / "out", "--no-overlay")
    assert len(lines(tmp_path / "out")) == 6


@pytest.mark.parametrize("mode", ["message", "file"])
def test_a_compressed_folder_is_read(
    mode: str, labels_of_pictures: list[bytes], tmp_path: Path
) -> None:
    folder = made.write_rosbag(tmp_path / "flight", made.images(5), "sqlite3", compressed=mode)
    run(folder, "-o", tmp_path / "out", "--no-overlay")
    written = [(tmp_path / "out" / f"flight_{n:06d}.png").read_bytes() for n in range(5)]
    assert written == labels_of_pictures


# ---- position and attitude


def turn(*yaw_pitch_roll: float) -> tuple[float, ...]:
    return tuple(Rotation.from_euler("ZYX", yaw_pitch_roll, degrees=True).as_quat())


def flight(n: int) -> made.Messages:
    """What lies beside images: north at 11 m/s, a fix a second; the drone heads 30° + 10°/s.

    In ROS's axes (x east, y north, z up; x forward, y left, z up) that is a yaw of 60° − 10°/s. The
    camera hangs under it and looks straight down, the top of its picture to the front.
    """
    down = Rotation.from_matrix([[0, -1, 0], [-1, 0, 0], [0, 0, -1]]).as_quat()
    found = [("/tf_static", START, made.transform(START, "base_link", "camera_optical", down))]
    for second in range(n):
        at = START + second * S
        found.append(("/gps/fix", at, made.fix(at, 46 + 1e-4 * second, 7.0, 550 + second)))
        yaw = turn(60 - 10 * second, 0, 0)
        found.append(("/tf", at, made.transform(at, "map", "base_link", yaw)))
    return found


def test_lines_have_the_position_and_attitude_that_lie_beside_the_images(tmp_path: Path) -> None:
    images = made.images(15, frame_id="camera_optical")
    path = made.write_mcap(tmp_path / "flight.mcap", [*images, *flight(4)])
    done = run(path, "-o", tmp_path / "out", "--no-overlay")
    for n, line in enumerate(lines(tmp_path / "out")):
        age = round(min(n % 10, 10 - n % 10) / 10, 3)
        assert line["gps"] == {
            "lat": pytest.approx(46 + 1e-5 * n, abs=1e-8),
            "lon": 7.0,
            "alt": None,  # NavSatFix is above the ellipsoid, not above the sea
            "age_s": age,
            "ellipsoid_alt": pytest.approx(550 + n / 10, abs=1e-3),
        }
        assert line["attitude"] == {
            "roll": 0.0,
            "pitch": -90.0,
            "yaw": pytest.approx(30 + n, abs=0.01),
            "age_s": age,
            "of": "camera",
        }
    assert f"{path}: position by /gps/fix: 4 positions" in done.stderr
    assert done.stderr.count("taken for east, north, up (REP 103)") == 1


@pytest.mark.parametrize(
    ("frame_id", "said"),
    [
        ("camera_link", "no optical one by its name"),
        ("lost_optical", "leads from 'lost_optical' to 'lost_optical', not to 'map'"),
    ],
)
def test_an_attitude_that_is_not_known_is_null_and_said_once(
    frame_id: str, said: str, tmp_path: Path
) -> None:
    images = made.images(3, frame_id=frame_id)
    path = made.write_mcap(tmp_path / "flight.mcap", [*images, *flight(4)])
    done = run(path, "-o", tmp_path / "out", "--no-overlay")
    assert {line["attitude"] for line in lines(tmp_path / "out")} == {None}
    assert done.stderr.count(said) == 1


def test_images_without_a_stamp_have_the_recorders_time(tmp_path: Path) -> None:
    messages = [("/camera", START + n * STEP, made.image(0, made.picture(n))) for n in range(3)]
    done = run(made.write_mcap(tmp_path / "f.mcap", messages), "-o", tmp_path / "out")
    assert [line["seconds"] for line in lines(tmp_path / "out")] == [0, 0.1, 0.2]
    assert done.stderr.count("have no stamp; their time is that of the recorder") == 1


# ---- --mcap


def opened(path: Path) -> dict[str, list[Any]]:
    """Messages of each topic with the recorder's time, read and decoded by the library mcap."""
    found: dict[str, list[Any]] = {}
    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        for _, channel, message, decoded in reader.iter_decoded_messages():
            found.setdefault(channel.topic, []).append((message.log_time, decoded))
    return found


def test_another_library_opens_what_is_written(tmp_path: Path) -> None:
    source = made.write_mcap(tmp_path / "flight.mcap", made.images(4))
    out, mcap = tmp_path / "out", tmp_path / "labels.mcap"
    run(source, "-o", out, "--mcap", mcap)
    found = opened(mcap)
    assert list(found) == ["/segclip/labels", "/segclip/overlay", "/segclip/lines"]
    for n in range(4):
        at, labels = found["/segclip/labels"][n]
        stamp = labels.header.stamp
        assert at == stamp.sec * S + stamp.nanosec == START + n * STEP
        assert labels.header.frame_id == "camera_optical_frame"
        assert (labels.height, labels.width, labels.step) == (50, 70, 70)
        assert labels.encoding == "mono8"
        with Image.open(out / f"flight_{n:06d}.png") as written:
            assert bytes(labels.data) == np.asarray(written).tobytes()
        at, overlay = found["/segclip/overlay"][n]
        jpeg = BytesIO()
        with Image.open(out / f"flight_{n:06d}.overlay.png") as drawn:
            drawn.save(jpeg, "JPEG", quality=90)
        assert bytes(overlay.data) == jpeg.getvalue()
        assert at == START + n * STEP
        at, line = found["/segclip/lines"][n]
        assert at == START + n * STEP
        mine, theirs = json.loads(line.data), lines(out)[n]
        for key in ("image", "index", "time", "areas", "labels", "gps", "attitude"):
            assert mine[key] == theirs[key]
    with AnyReader([mcap]) as reader:  # rosbags reads the file, too
        assert reader.message_count == 12
    with mcap.open("rb") as stream:
        (classes,) = make_reader(stream).iter_metadata()
    assert classes.metadata["0"] == "building"


def test_overlays_may_be_left_out_and_frames_without_a_time_are_told(tmp_path: Path) -> None:
    film, mcap = make_film(tmp_path / "clip.mp4", 3), tmp_path / "labels.mcap"
    done = run(film, "-o", tmp_path / "out", "--mcap", mcap, "--no-overlay")
    found = opened(mcap)
    assert list(found) == ["/segclip/labels", "/segclip/lines"]
    assert [at for at, _ in found["/segclip/labels"]] == [0, 40_000_000, 80_000_000]
    assert done.stderr.count("stamps of such frames count from 1970-01-01T00:00:00Z") == 1


def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    """The overlays are images of a recording like any other."""
    run(make_film(tmp_path / "clip.mp4", 3), "-o", tmp_path / "a", "--mcap", tmp_path / "b.mcap")
    run(tmp_path / "b.mcap", "-o", tmp_path / "c", "--topic", "/segclip/overlay")
    assert len(lines(tmp_path / "c")) == 3


def test_a_source_and_another_name_are_refused(tmp_path: Path) -> None:
    source = made.write_mcap(tmp_path / "flight.mcap", made.images(1))
    before = source.read_bytes()
    done = run(source, "-o", tmp_path / "out", "--mcap", source, code=1)
    assert "flight.mcap: the results would overwrite a source" in done.stderr
    assert source.read_bytes() == before
    done = run(source, "-o", tmp_path / "out", "--mcap", tmp_path / "a.bag", code=1)
    assert "a.bag: a recording is named NAME.mcap" in done.stderr
    Image.new("RGB", (70, 50)).save(tmp_path / "a.png")
    done = run(source, tmp_path / "a.png", "-o", tmp_path / "out", code=1)
    assert "flight.mcap: recordings and other sources are two runs" in done.stderr


@pytest.mark.faults
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_leaves_a_whole_recording_or_none(
    sent: signal.Signals, tmp_path: Path
) -> None:
    source = made.write_mcap(tmp_path / "flight.mcap", made.images(99))
    out, mcap = tmp_path / "out", tmp_path / "labels.mcap"
    words = source, "-o", out, "--mcap", mcap, "--no-overlay"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fake_cli", "run", "engine", *words],
        env={**os.environ, "FAKE_LATENCY_MS": "20"},
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    ends = time.monotonic() + 30
    while not (out / "flight_000003.png").exists() and time.monotonic() < ends:
        time.sleep(0.02)
    process.send_signal(sent)
    process.wait()
    assert (out / "flight_000003.png").exists()
    if sent == signal.SIGKILL:
        assert not mcap.exists()
    else:
        assert process.returncode == 130
        assert 4 <= len(opened(mcap)["/segclip/labels"]) == len(lines(out)) < 99


@pytest.mark.faults
@pytest.mark.parametrize(("count", "room"), [(300, 200_000), (8, 10_000)], ids=["write", "finish"])
def test_a_recording_that_does_not_fit_is_not_there_in_part(
    count: int, room: int, tmp_path: Path
) -> None:
    source = made.write_mcap(tmp_path / "flight.mcap", made.images(count))
    (tmp_path / "to").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        mcap = tmp_path / "to" / "labels.mcap"
        done = call("run", "engine", source, "-o", tmp_path / "o", "--mcap", mcap, "--no-overlay")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.exit_code == 1
    assert done.stderr.strip().endswith(f"{mcap}: File too large")
    assert list((tmp_path / "to").iterdir()) == []

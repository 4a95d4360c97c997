"""Position and attitude by MAVLink: logs, a port and a serial line, and what ends them."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pymavlink.dialects.v20 import ardupilotmega as mavlink
from scipy.spatial.transform import Rotation

from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.runtime.io.sources.base import Shot
from segclip_deploy.runtime.io.sources.live import LiveSource
from segclip_deploy.runtime.io.sources.placed import PlacedSource
from segclip_deploy.runtime.io.sources.video import VideoFrame
from segclip_deploy.runtime.io.telemetry.autopilot import Autopilot
from segclip_deploy.runtime.io.telemetry.mavlink import open_telemetry
from segclip_deploy.runtime.io.telemetry.track import Track
from tests.support.autopilots import TAKE_OFF, S, messages, packed, write_bin, write_tlog


def check(track: Track) -> None:
    position, attitude = track.at(TAKE_OFF + 4 * S + S // 2)
    assert position is not None
    assert (position.lat, position.lon, position.alt) == (46.00045, 7.0, 504.5)
    assert position.age_s == pytest.approx(0.5, abs=0.001)
    assert attitude is not None
    angles = attitude.roll, attitude.pitch, attitude.yaw
    assert angles == pytest.approx((5.73, -11.459, 9.0), abs=0.01)
    assert attitude.of == "vehicle"


@pytest.mark.parametrize("write", [write_tlog, write_bin])
def test_a_log_gives_position_and_attitude(
    write: Callable[[Path], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / f"flight.{write.__name__[-4:].strip('_')}")
    told: list[str] = []
    with open_telemetry(str(path), report=told.append) as track:
        check(track)
    assert told == [
        f"{path}: 10 positions, 10 attitudes, 2026-05-28T20:26:40Z to 2026-05-28T20:26:49Z"
    ]
    assert capfd.readouterr().out == ""  # lines for a program may go there


@pytest.mark.faults
def test_a_log_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_tlog(tmp_path / "flight.tlog")
    path.write_bytes(b"\xfd\x00garbage" + path.read_bytes()[:-20])
    told: list[str] = []
    with open_telemetry(str(path), report=told.append) as track:
        assert len(track) >= 16
    assert "9 attitudes" in told[-1] or "10 attitudes" in told[-1]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.tlog", None, "a.tlog: not readable (No such file or directory)"),
        ("a.bin", b"no log at all" * 99, "a.bin: "),
        ("a.tlog", b"", "a.tlog: "),
        ("a.tlog", b"no log at all" * 99, "a.tlog: holds no position and no attitude"),
    ],
)
def test_a_log_that_says_nothing_is_refused(
    name: str, content: bytes | None, error: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught, open_telemetry(str(tmp_path / name), report=print):
        pass
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.faults
def test_a_damaged_log_is_not_read_for_ever(tmp_path: Path) -> None:
    """A format that says that its records have no length: found by a fuzzer, pymavlink 2.4.50."""
    path = write_bin(tmp_path / "flight.bin")
    data = bytearray(path.read_bytes())
    del data[384:396]
    data[187:190] = bytes(7)
    del data[182:186]
    data[116] = 0x2D
    path.write_bytes(data)
    with (
        pytest.raises(BadInput, match=r"no log that can be read \(ValueError: a record without"),
        open_telemetry(str(path), report=print),
    ):
        pass


@pytest.mark.faults
def test_a_log_with_damage_in_it_says_so_in_its_line_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_bin(tmp_path / "flight.bin")
    data = bytearray(path.read_bytes())
    data[93] += 1  # the length of GPS; pymavlink prints each error to stdout
    path.write_bytes(data)
    told: list[str] = []
    with open_telemetry(str(path), report=told.append):
        pass
    assert told[-1].endswith("; parts of it are damaged, and left out")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("source", ["flight.log", "udp:14550", "serial:/dev/ttyS0", "tcp:a:1", ""])
def test_what_is_no_telemetry_is_told_what_is(source: str) -> None:
    with pytest.raises(UsageError, match=r"udp:HOST:PORT"), open_telemetry(source, report=print):
        pass


def wait_for(ready: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not ready() and time.monotonic() < ends:
        time.sleep(0.01)
    assert ready()


def test_what_comes_to_a_port_is_of_now_and_damage_costs_one_message() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        port = sender.getsockname()[1]
    told: list[str] = []
    with (
        open_telemetry(f"udp:127.0.0.1:{port}", report=told.append) as track,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        assert track.at(time.time_ns()) == (None, None)
        assert told == [
            f"udp:127.0.0.1:{port}: no position has come yet, so that of frames is null"
        ]
        broken = bytearray(packed(messages(3)[2]))
        broken[15] ^= 255
        sender.sendto(b"no message " + bytes(broken), ("127.0.0.1", port))
        for message in messages(4):
            sender.sendto(packed(message), ("127.0.0.1", port))
        sender.sendto(packed(messages(5)[2], system=7), ("127.0.0.1", port))
        wait_for(lambda: len(track) == 2 and len(told) == 2)
        position, attitude = track.at(time.time_ns())
        assert position is not None
        assert attitude is not None
        assert (position.lat, position.alt) == (46.0004, 504.0)
        assert 0 <= (position.age_s or 0) < 2
        assert "more than one vehicle; that of system 1 is taken" in told[1]
        taken = pytest.raises(BadInput, match="cannot listen there")
        with taken, open_telemetry(f"udp:127.0.0.1:{port}", report=print):
            pass


def test_frames_of_a_camera_take_what_came_last() -> None:
    master, slave = os.openpty()
    pixels = np.zeros((48, 64, 3), np.uint8)

    def read(_: str) -> Iterator[VideoFrame]:
        for second in (4, 5):
            for message in messages(second):
                os.write(master, packed(message))
            wait_for(partial(holds, 2 * (second - 3)))
            time.sleep(0.002)  # a frame's time is cut to milliseconds
            yield VideoFrame(pixels, None, damaged=False)

    def holds(count: int) -> bool:
        return len(track) == count

    with open_telemetry(f"serial:{os.ttyname(slave)}:57600", report=print) as track:
        camera = LiveSource("rtsp://camera/x", report=print, patience_s=0, read=read)
        source = PlacedSource(camera, track, report=print)
        assert source.live
        shots = source.shots(threading.Event())
        found = [shot.capture for shot in (next(shots), next(shots)) if isinstance(shot, Shot)]
    os.close(master)
    os.close(slave)
    assert [c.position and c.position.lat for c in found] == [
        pytest.approx(46.0004, abs=1e-4),
        pytest.approx(46.0005, abs=1e-7),
    ]
    assert all(c.attitude and c.attitude.of == "vehicle" for c in found)


@pytest.mark.faults
def test_a_serial_line_is_read_until_it_is_pulled() -> None:
    master, slave = os.openpty()
    told: list[str] = []
    with open_telemetry(f"serial:{os.ttyname(slave)}:57600", report=told.append) as track:
        os.close(slave)
        for message in messages(4):
            os.write(master, packed(message))
        wait_for(lambda: len(track) == 2)
        os.close(master)
        wait_for(lambda: bool(told))
    assert "telemetry has ended" in told[0]
    with (
        pytest.raises(BadInput, match="cannot be opened"),
        open_telemetry("serial:/dev/no-such-tty:57600", report=print),
    ):
        pass


def test_a_receiver_without_a_fix_gives_null(tmp_path: Path) -> None:
    path = write_tlog(tmp_path / "flight.tlog", fix=1)
    told: list[str] = []
    with open_telemetry(str(path), report=told.append) as track:
        assert track.at(TAKE_OFF)[0] is None
    assert told[0] == f"{path}: the receiver has no fix; such positions are null"


@pytest.mark.parametrize(
    ("flags", "yaw"), [(64, 30.0), (16, 30.0), (32, 50.0), (0, 50.0), (16 | 32, 50.0)]
)
def test_a_gimbals_yaw_counts_from_what_its_flags_say(flags: int, yaw: float) -> None:
    """At 10 s the vehicle heads 20°; the quaternion is SciPy's."""
    track = Track("link", report=print)
    autopilot = Autopilot(track, print)
    x, y, z, w = Rotation.from_euler("ZYX", [30, -60, 5], degrees=True).as_quat()
    gimbal = mavlink.MAVLink_gimbal_device_attitude_status_message
    for message in (
        *messages(10),
        gimbal(0, 0, 0, flags, [w, x, y, z], 0, 0, 0, 0),
    ):
        parsed = mavlink.MAVLink(None).decode(bytearray(packed(message)))
        autopilot.take(parsed, TAKE_OFF)
    _, attitude = track.at(TAKE_OFF)
    assert attitude is not None
    angles = attitude.roll, attitude.pitch, attitude.yaw
    assert angles == pytest.approx((5, -60, yaw), abs=0.001)
    assert attitude.of == "camera"


@pytest.mark.parametrize("q", [[0.0] * 4, [math.nan] * 4])
def test_a_gimbal_that_does_not_know_says_nothing(q: list[float]) -> None:
    track = Track("link", report=print)
    autopilot = Autopilot(track, print)
    message = mavlink.MAVLink_gimbal_device_attitude_status_message(0, 0, 0, 64, q, 0, 0, 0, 0)
    autopilot.take(mavlink.MAVLink(None).decode(bytearray(packed(message))), TAKE_OFF)
    assert track.at(TAKE_OFF) == (None, None)

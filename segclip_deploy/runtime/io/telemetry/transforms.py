"""Where a camera looks by the transforms of a ROS recording (tf)."""

from __future__ import annotations

import math
from collections.abc import Callable

from segclip_deploy.runtime.io.telemetry.capture import Attitude
from segclip_deploy.runtime.io.telemetry.quaternions import (
    Quaternion,
    angles_of,
    multiply,
    slerp,
)
from segclip_deploy.runtime.io.telemetry.track import Timed

__all__ = ["TransformTree"]

_MAP = "map"  # REP 105: fixed to the world; REP 103: x is east, y north, z up
_OPTICAL = "optical"  # REP 103: x is right, y down, z forward
_STEP_NS = 20_000_000  # turns nearer than this are left out: an hour of 200 a second is too much
_DEEPEST = 64  # frames between a camera and the map; more is a loop
_HALF = math.sqrt(0.5)
_NED_FROM_ENU: Quaternion = (0.0, _HALF, _HALF, 0.0)
_OPTICAL_FROM_BODY: Quaternion = (0.5, -0.5, -0.5, -0.5)  # body: x is forward, y right, z down


class TransformTree:
    """Turns between the coordinate frames of a robot, each over time.

    Args:
        name: of the recording, for lines.
        report: is told once why a camera's attitude is not known, and what is assumed where it is.
    """

    def __init__(self, name: str, *, report: Callable[[str], None]) -> None:
        self._name, self._report, self._told = name, report, set[str]()
        self._parents: dict[str, str] = {}
        self._still: dict[str, Quaternion] = {}
        self._moving: dict[str, Timed[Quaternion]] = {}

    def __len__(self) -> int:
        """How many frames have a parent."""
        return len(self._parents)

    def add(self, time_ns: int | None, parent: str, child: str, turn: Quaternion) -> None:
        """Add a transform.

        Args:
            time_ns: nanoseconds since 1970; None of one that holds always (``/tf_static``).
            parent, child: names of frames.
            turn: of the child's axes within the parent's, (w, x, y, z), of any length but 0.
        """
        length = math.hypot(*turn)
        if not (math.isfinite(length) and length > 0):
            self._tell("number", "a transform is no turn; it is left out")
            return
        w, x, y, z = (part / length for part in turn)
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if self._parents.get(child, parent) != parent:
            self._moving.pop(child, None)
            self._still.pop(child, None)
        self._parents[child] = parent
        if time_ns is None:
            self._still[child] = (w, x, y, z)
            return
        series = self._moving.setdefault(child, Timed())
        if not series.times or time_ns - series.times[-1] >= _STEP_NS:
            series.add(time_ns, (w, x, y, z))

    def attitude(self, frame_id: str, time_ns: int) -> Attitude | None:
        """How a camera was turned at a time.

        Args:
            frame_id: of its images. Only one that is optical by its name (REP 103) is believed.
            time_ns: nanoseconds since 1970.

        Returns:
            None where the frame, a way from it to ``map``, or a turn of that time is not there.
        """
        frame_id = frame_id.lstrip("/")
        if not self._parents:
            return None
        if _OPTICAL not in frame_id:
            return self._unknown(
                "optical",
                f"the images are of frame {frame_id!r}, which is no optical one by its name "
                "(REP 103), so attitudes are null",
            )
        way = self._way(frame_id)
        if way[-1] != _MAP:
            return self._unknown(
                "way",
                f"tf leads from {frame_id!r} to {way[-1]!r}, not to 'map'; attitudes are null",
            )
        whole, oldest = _NED_FROM_ENU, 0.0
        for child in reversed(way[:-1]):  # from the map down to the camera
            found = self._turn(child, time_ns)
            if found is None:
                return self._unknown(
                    "away",
                    f"tf has no turn of {child!r} near some frames; attitudes are null there",
                )
            turn, age = found
            whole, oldest = multiply(whole, turn), max(oldest, age)
        self._tell("map", "attitude by tf, whose 'map' is taken for east, north, up (REP 103)")
        roll, pitch, yaw = angles_of(multiply(whole, _OPTICAL_FROM_BODY))
        return Attitude(round(roll, 3), round(pitch, 3), round(yaw, 3), round(oldest, 3), "camera")

    def _way(self, frame_id: str) -> list[str]:
        """The frame, its parent, and so on to ``map`` or the root."""
        way = [frame_id]
        while way[-1] != _MAP and way[-1] in self._parents and len(way) < _DEEPEST:
            way.append(self._parents[way[-1]])
        return way

    def _turn(self, child: str, time_ns: int) -> tuple[Quaternion, float] | None:
        """A frame's turn within its parent at a time, and its age in seconds."""
        if child in self._still:
            return self._still[child], 0.0
        beside = self._moving[child].beside(time_ns)
        if beside is None:
            return None
        first, last, share, age = beside
        return slerp(first, last, share), age

    def _unknown(self, kind: str, line: str) -> Attitude | None:
        """None, with the reason in a line."""
        self._tell(kind, line)
        return None

    def _tell(self, kind: str, line: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._report(f"{self._name}: {line}")

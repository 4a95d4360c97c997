"""Position and turns by ROS messages, as a recording or a node gives them: whatever has their fields."""

from __future__ import annotations

from typing import Any

from segclip_deploy.runtime.io.telemetry.track import Track
from segclip_deploy.runtime.io.telemetry.transforms import TransformTree

__all__ = ["add_fix", "add_transforms", "stamp_ns"]


def add_fix(track: Track, message: Any, *, recorded_ns: int) -> None:
    """Add a ``sensor_msgs/NavSatFix``, whose altitude is above WGS 84.

    Args:
        track: to add to.
        message: with the fields of that type.
        recorded_ns: when it was recorded or came, which is taken where it has no stamp.
    """
    track.add_position(
        stamp_ns(message.header.stamp) or recorded_ns,
        message.latitude,
        message.longitude,
        ellipsoid_alt=message.altitude,
        has_fix=message.status.status >= 0,  # -1 is STATUS_NO_FIX
    )


def add_transforms(tree: TransformTree, message: Any, *, recorded_ns: int, still: bool) -> None:
    """Add a ``tf2_msgs/TFMessage``.

    Args:
        tree: to add to.
        message: with the fields of that type.
        recorded_ns: when it was recorded or came, which is taken where it has no stamp.
        still: it came on ``/tf_static``, and holds always.
    """
    for one in message.transforms:
        turn = one.transform.rotation
        time_ns = stamp_ns(one.header.stamp) or recorded_ns
        tree.add(
            None if still else time_ns,
            one.header.frame_id,
            one.child_frame_id,
            (turn.w, turn.x, turn.y, turn.z),
        )


def stamp_ns(stamp: Any) -> int:
    """A ``builtin_interfaces/Time`` in nanoseconds since 1970; 0 where it was not set."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)

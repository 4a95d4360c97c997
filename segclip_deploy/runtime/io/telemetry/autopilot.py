"""What the messages of a flight controller say of position and attitude."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from segclip_deploy.runtime.io.telemetry.quaternions import angles_of, multiply, quaternion_of
from segclip_deploy.runtime.io.telemetry.track import Track

__all__ = ["Autopilot"]

_3D_FIX = 3  # GPS_FIX_TYPE_3D_FIX, and Status of ArduPilot's GPS message
# GIMBAL_DEVICE_FLAGS: what a gimbal's yaw counts from.
_YAW_LOCK, _YAW_IN_VEHICLE_FRAME, _YAW_IN_EARTH_FRAME = 16, 32, 64
_UNIT_ERROR = 0.01  # how far a turn's length may be from 1
_HEADING_NS = 1_000_000_000  # how old the vehicle's heading may be beside a gimbal's yaw


class Autopilot:
    """Adds to a track what messages of one vehicle say; the first that speaks.

    MAVLink (common.xml): GLOBAL_POSITION_INT, GPS_RAW_INT for whether there is a fix, ATTITUDE,
    GIMBAL_DEVICE_ATTITUDE_STATUS and MOUNT_ORIENTATION. Logs of ArduPilot: POS, GPS, ATT.

    Args:
        track: to add to.
        report: is told where there is more than one vehicle.
    """

    def __init__(self, track: Track, report: Callable[[str], None]) -> None:
        self._track, self._report = track, report
        self._vehicle: int | None = None
        self._others = False
        self._has_fix = True
        self._heading = (0, math.nan)  # (time, degrees) of the vehicle
        self._takes: dict[str, Callable[[Any, int], None]] = {
            "GLOBAL_POSITION_INT": self._global_position,
            "GPS_RAW_INT": self._gps_raw,
            "ATTITUDE": self._attitude,
            "GIMBAL_DEVICE_ATTITUDE_STATUS": self._gimbal,
            "MOUNT_ORIENTATION": self._mount,
            "POS": self._pos,
            "GPS": self._gps,
            "ATT": self._att,
        }

    @property
    def kinds(self) -> list[str]:
        """Types of messages that say something."""
        return [*self._takes]

    def take(self, message: Any, time_ns: int) -> None:
        """Add what a message of pymavlink says, if it is of a type that is known.

        Args:
            message: decoded.
            time_ns: when it was logged or came, nanoseconds since 1970.
        """
        take = self._takes.get(message.get_type())
        if take is None or not self._is_of_vehicle(message):
            return
        take(message, time_ns)

    def _is_of_vehicle(self, message: Any) -> bool:
        if not hasattr(message, "get_srcSystem"):  # a log on board has one vehicle
            return True
        system = message.get_srcSystem()
        if self._vehicle is None:
            self._vehicle = system
        if system != self._vehicle and not self._others:
            self._others = True
            self._report(
                f"{self._track.name}: has more than one vehicle; that of system "
                f"{self._vehicle} is taken"
            )
        return bool(system == self._vehicle)

    def _global_position(self, message: Any, time_ns: int) -> None:
        self._track.add_position(
            time_ns,
            message.lat / 1e7,
            message.lon / 1e7,
            message.alt / 1e3,
            has_fix=self._has_fix,
        )

    def _gps_raw(self, message: Any, time_ns: int) -> None:  # noqa: ARG002
        self._has_fix = message.fix_type >= _3D_FIX

    def _attitude(self, message: Any, time_ns: int) -> None:
        angles = (math.degrees(angle) for angle in (message.roll, message.pitch, message.yaw))
        self._turn(time_ns, *angles)

    def _turn(self, time_ns: int, roll: float, pitch: float, yaw: float) -> None:
        self._heading = time_ns, yaw
        self._track.add_attitude(time_ns, roll, pitch, yaw)

    def _gimbal(self, message: Any, time_ns: int) -> None:
        """Yaw counts from north or from the vehicle's nose, as the flags say; roll and pitch from the horizon."""
        flags = message.flags
        is_earth = flags & _YAW_IN_EARTH_FRAME or (
            flags & _YAW_LOCK and not flags & _YAW_IN_VEHICLE_FRAME
        )
        w, x, y, z = message.q
        turn = (w, x, y, z)
        if not abs(math.hypot(*turn) - 1) < _UNIT_ERROR:  # zeros and NaN: it does not know
            return
        if not is_earth:
            since, heading = self._heading
            if abs(time_ns - since) > _HEADING_NS or not math.isfinite(heading):
                return
            turn = multiply(quaternion_of(0, 0, heading), turn)
        self._track.add_attitude(time_ns, *angles_of(turn), of="camera")

    def _mount(self, message: Any, time_ns: int) -> None:
        self._track.add_attitude(
            time_ns, message.roll, message.pitch, message.yaw_absolute, of="camera"
        )

    def _pos(self, message: Any, time_ns: int) -> None:
        self._track.add_position(
            time_ns, message.Lat, message.Lng, message.Alt, has_fix=self._has_fix
        )

    def _gps(self, message: Any, time_ns: int) -> None:  # noqa: ARG002
        if getattr(message, "I", 0) == 0:  # the first receiver; others have no say
            self._has_fix = message.Status >= _3D_FIX

    def _att(self, message: Any, time_ns: int) -> None:
        self._turn(time_ns, message.Roll, message.Pitch, message.Yaw)

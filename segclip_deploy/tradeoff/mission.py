"""What a flight demands of an engine: ground covered, frames and windows a second."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.windows import cover
from segclip_deploy.tradeoff.row import Row

__all__ = [
    "SENSORS",
    "Demand",
    "Margin",
    "Mission",
    "Sensor",
    "demand",
    "margins",
    "mission_text",
    "sensor",
]


@dataclass(frozen=True)
class Sensor:
    """A camera that looks straight down.

    Attributes:
        width, height: pixels; the height lies along the track.
        pitch: millimetres between pixels on the sensor.
        focal: millimetres, true and not "35 mm equivalent".
    """

    width: int
    height: int
    pitch: float
    focal: float


SENSORS: Mapping[str, Sensor] = {
    "dji-p1": Sensor(8192, 5460, 35.9 / 8192, 35.0),  # Zenmuse P1 with the 35 mm lens
    "dji-m3e": Sensor(5280, 3956, 17.3 / 5280, 12.29),  # Mavic 3 Enterprise, wide camera
    "dji-p4p": Sensor(5472, 3648, 13.2 / 5472, 8.8),  # Phantom 4 Pro
}
"""By the makers' data sheets."""


def sensor(text: str) -> Sensor:
    """A name of ``SENSORS``, or ``4000x2250,6.17mm,3.61mm``: pixels, sensor width, focal length.

    Raises:
        BadInput: neither.
    """
    if text in SENSORS:
        return SENSORS[text]
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(\d+)x(\d+),{number}mm,{number}mm", text)
    if not found or not all(float(part) for part in found.groups()):
        raise BadInput(
            f"{text!r} is no sensor",
            where="--sensor",
            fix=f"{', '.join(SENSORS)}, or pixels, sensor width and focal length: "
            "4000x2250,6.17mm,3.61mm",
        )
    width, height = int(found[1]), int(found[2])
    return Sensor(width, height, float(found[3]) / width, float(found[4]))


@dataclass(frozen=True)
class Mission:
    """A survey at constant height and speed, in parallel strips.

    Attributes:
        sensor: the camera.
        altitude: metres above ground.
        speed: metres a second over ground.
        front, side: overlap of neighbouring photos along and across the track, shares of 1.
    """

    sensor: Sensor
    altitude: float
    speed: float
    front: float = 0.7
    side: float = 0.7

    def __post_init__(self) -> None:
        if not (self.altitude > 0 and self.speed > 0):
            raise BadInput("altitude and speed are above zero", where="--altitude, --speed")
        if not (0 <= self.front < 1 and 0 <= self.side < 1):
            raise BadInput(
                "photos overlap by 0 to below 1", where="--front-overlap, --side-overlap"
            )


@dataclass(frozen=True)
class Demand:
    """What a mission asks for.

    Attributes:
        ground_sample_distance: metres a pixel.
        footprint: metres on the ground of a photo, (along, across) the track.
        interval: seconds between photos.
        windows: of the model's size in a photo.
        windows_per_second: to keep up.
        square_kilometres_per_hour: of new ground, turns not counted.
    """

    ground_sample_distance: float
    footprint: tuple[float, float]
    interval: float
    windows: int
    windows_per_second: float
    square_kilometres_per_hour: float


class Margin(Record, frozen=True):
    """Whether an engine keeps up with a mission.

    Attributes:
        name: of its row.
        windows: of its size in a photo.
        needed: windows a second.
        has: windows a second, at the percentile of latency that counts.
        margin: has / needed; it keeps up from 1 on.
    """

    name: str
    windows: int
    needed: float
    has: float
    margin: float


def demand(mission: Mission, window: tuple[int, int], overlap: int) -> Demand:
    """The figures of a mission for a model's window (height, width) and overlap, in pixels.

    Ground sample distance = altitude · pitch / focal length (similar triangles, the ground flat
    and the camera vertical; e.g. Wolf, Dewitt & Wilkinson, Elements of Photogrammetry, ch. 6).
    """
    camera = mission.sensor
    distance = mission.altitude * camera.pitch / camera.focal
    along, across = camera.height * distance, camera.width * distance
    interval = along * (1 - mission.front) / mission.speed
    image = (max(camera.height, window[0]), max(camera.width, window[1]))
    windows = len(cover(image, window, (overlap, overlap)))
    return Demand(
        ground_sample_distance=distance,
        footprint=(along, across),
        interval=interval,
        windows=windows,
        windows_per_second=windows / interval,
        square_kilometres_per_hour=mission.speed * across * (1 - mission.side) * 3600 / 1e6,
    )


def mission_text(mission: Mission) -> str:
    """A mission and what follows from it on the ground, in one sentence."""
    sides = (mission.sensor.height, mission.sensor.width)
    asked = demand(mission, sides, 0)  # the size of windows changes none of what is told
    along, across = asked.footprint
    return (
        f"{mission.altitude:g} m above ground at {mission.speed:g} m/s, "
        f"{mission.sensor.width} × {mission.sensor.height} pixels: "
        f"{100 * asked.ground_sample_distance:.1f} cm a pixel, a photo covers "
        f"{across:.0f} × {along:.0f} m, overlap {mission.front:.0%} along and {mission.side:.0%} "
        f"across; a photo every {asked.interval:.2f} s, "
        f"{asked.square_kilometres_per_hour:.1f} km² an hour."
    )


def margins(mission: Mission, rows: Sequence[Row], rank: float) -> tuple[Margin, ...]:
    """What a mission asks of each row and what the row has.

    Args:
        mission: to keep up with.
        rows: as measured.
        rank: the percentile of latency that counts.
    """
    found = []
    for row in rows:
        asked = demand(mission, row.window, row.overlap)
        needed, has = asked.windows_per_second, 1e3 * row.windows / row.percentile(rank)
        found.append(
            Margin(
                name=row.name,
                windows=asked.windows,
                needed=needed,
                has=has,
                margin=has / needed,
            )
        )
    return tuple(found)

"""ROS 2 recordings for tests, written by rosbags."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from numpy.typing import NDArray
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_HUMBLE)
KINDS = TYPES.types
S = 1_000_000_000
START = 1_780_000_000 * S
"""Nanoseconds since 1970."""
STEP = S // 10

Messages = list[tuple[str, int, Any]]
"""Topic, recorder's time and message."""


def header(time_ns: int, frame_id: str = "camera_optical_frame") -> Any:
    stamp = KINDS["builtin_interfaces/msg/Time"](*divmod(time_ns, S))
    return KINDS["std_msgs/msg/Header"](stamp, frame_id)


def picture(number: int, height: int = 50, width: int = 70) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image(time_ns: int, pixels: NDArray[np.uint8], encoding: str = "rgb8", **more: Any) -> Any:
    """A ``sensor_msgs/Image``; of bgr8 it gets the same picture."""
    height, width, *channels = pixels.shape
    data = pixels[..., ::-1] if encoding == "bgr8" else pixels
    step = width * (channels[0] if channels else 1)
    return KINDS["sensor_msgs/msg/Image"](
        header(time_ns, **more),
        height,
        width,
        encoding,
        0,
        step,
        np.ascontiguousarray(data).ravel(),
    )


def compressed(time_ns: int, pixels: NDArray[np.uint8]) -> Any:
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    data = np.frombuffer(png.getvalue(), np.uint8)
    return KINDS["sensor_msgs/msg/CompressedImage"](header(time_ns), "rgb8; png compressed", data)


def fix(time_ns: int, lat: float, lon: float, alt: float = 550.0, status: int = 0) -> Any:
    service = KINDS["sensor_msgs/msg/NavSatStatus"](status, 1)
    return KINDS["sensor_msgs/msg/NavSatFix"](
        header(time_ns, "gps"), service, lat, lon, alt, np.zeros(9), 0
    )


def transform(time_ns: int, parent: str, child: str, xyzw: tuple[float, ...]) -> Any:
    """A ``tf2_msgs/TFMessage`` of one turn."""
    part = "geometry_msgs/msg/"
    moved = KINDS[f"{part}Transform"](
        KINDS[f"{part}Vector3"](0.0, 0.0, 0.0), KINDS[f"{part}Quaternion"](*xyzw)
    )
    stamped = KINDS[f"{part}TransformStamped"](header(time_ns, parent), child, moved)
    return KINDS["tf2_msgs/msg/TFMessage"]([stamped])


def images(
    count: int, make: Callable[..., Any] = image, topic: str = "/camera", **more: Any
) -> Messages:
    """Ten a second; the recorder takes each 5 ms after its stamp."""
    stamps = [START + n * STEP for n in range(count)]
    return [(topic, t + S // 200, make(t, picture(n), **more)) for n, t in enumerate(stamps)]


def write_rosbag(
    folder: Path, messages: Messages, storage: str = "mcap", compressed: str = "none"
) -> Path:
    """A folder of rosbag2."""
    plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
    bag = Writer(folder, version=9, storage_plugin=plugin)
    bag.set_compression(CompressionMode[compressed.upper()], CompressionFormat.ZSTD)
    with bag:
        topics: dict[str, Any] = {}
        for topic, time_ns, message in sorted(messages, key=lambda one: one[1]):
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = bag.add_connection(topic, kind, typestore=TYPES)
            bag.write(topics[topic], time_ns, TYPES.serialize_cdr(message, kind))
    return folder


def write_mcap(path: Path, messages: Messages) -> Path:
    """One file."""
    folder = write_rosbag(path.with_suffix(".bag"), messages)
    (written,) = folder.glob("*.mcap")
    return written.rename(path)


def write_chunks(path: Path, messages: Messages, compression: str = "ZSTD") -> Path:
    """One file, written by the library mcap: each message in a chunk of its own, with its checksum."""
    with path.open("wb") as stream:
        writer = McapWriter(stream, chunk_size=1, compression=CompressionType[compression])
        writer.start(profile="ros2")
        channels: dict[str, int] = {}
        for topic, time_ns, message in messages:
            kind = message.__msgtype__
            if topic not in channels:
                definition = TYPES.generate_msgdef(kind, ros_version=2)[0].encode()
                schema = writer.register_schema(kind, "ros2msg", definition)
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            data = bytes(TYPES.serialize_cdr(message, kind))
            writer.add_message(channels[topic], time_ns, data, time_ns)
        writer.finish()
    return path

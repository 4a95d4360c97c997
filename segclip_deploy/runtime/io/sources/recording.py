"""Frames of ROS 2 recordings, with the position and attitude that lie beside them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.bag_storage import BagMessage
from segclip_deploy.runtime.io.rosbag import Rosbag, deserialize
from segclip_deploy.runtime.io.sources.base import Header, Shot, Unreadable
from segclip_deploy.runtime.io.telemetry.capture import Capture
from segclip_deploy.runtime.io.telemetry.ros_readings import add_fix, add_transforms, stamp_ns
from segclip_deploy.runtime.io.telemetry.track import Track
from segclip_deploy.runtime.io.telemetry.transforms import TransformTree
from segclip_deploy.runtime.ros.messages import ImageFields, read_compressed, read_image

__all__ = ["Recording", "RecordingSource", "name_recordings"]

_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_FIX, _TF = "sensor_msgs/msg/NavSatFix", "tf2_msgs/msg/TFMessage"
_STATIC = "/tf_static"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Recording:
    """A recording to label.

    Attributes:
        path: as the user named it.
        name: of its results, without the number of the frame.
    """

    path: Path
    name: str


def name_recordings(paths: Sequence[Path]) -> list[Recording]:
    """Name the results of recordings after them.

    Raises:
        BadInput: those of two would have one name.
    """
    names = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise BadInput(
                f"its results would overwrite those of {paths[names.index(name)]}",
                where=paths[number],
                fix="rename one, or run them into two folders",
            )
    return [Recording(path, name) for path, name in zip(paths, names, strict=True)]


class RecordingSource:
    """Images of recordings, one after another, in the order in which they were recorded.

    Each recording is read twice: for what it holds and for positions, and then for the images.

    Args:
        recordings: to read, in this order.
        topic: of the images; None: the only one of images.
        bands: which channels are red, green and blue, from 1.
        report: is told what is odd in a recording and no error.

    Raises:
        BadInput: no recording, or none with that topic.
    """

    live = False
    reconnects = dropped = 0

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        topic: str | None = None,
        bands: tuple[int, int, int] | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._contents = [_Contents(one, topic, report) for one in recordings]
        self._bands, self._report = bands, report
        self.total: int | None = sum(contents.count for contents in self._contents)

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:  # noqa: ARG002
        """Read them one by one; one that is damaged or cut off, as far as it goes."""
        index = 0
        for contents in self._contents:
            messages, number, first_ns = contents.images(), 0, None
            while True:
                started = time.perf_counter()
                try:
                    message = next(messages, None)
                    if message is None:
                        break
                    fields = deserialize(message)
                    header = contents.header(fields, message)
                    frame = self._frame(message, fields)
                except BadInput as error:
                    source = str(contents.recording.path)
                    yield Unreadable(source, BadInput(error.what, where=source, fix=error.fix))
                    index, number = index + 1, number + 1
                    continue
                first_ns = header.stamp_ns if first_ns is None else first_ns
                now = time.perf_counter()
                yield Shot(
                    replace(frame, source=str(contents.recording.path)),
                    f"{contents.recording.name}_{number:06d}",
                    index,
                    contents.capture(header),
                    (header.stamp_ns - first_ns) / 1e9,
                    1e3 * (now - started),
                    now,
                    header=header,
                )
                index, number = index + 1, number + 1

    def _frame(self, message: BagMessage, fields: Any) -> Frame:
        if message.kind == _COMPRESSED:
            return read_compressed(fields.format, fields.data, message.topic, bands=self._bands)
        given = ImageFields(
            fields.height,
            fields.width,
            fields.encoding,
            fields.is_bigendian,
            fields.step,
            fields.data,
        )
        return read_image(given, message.topic, bands=self._bands)


class _Contents:
    """What a recording holds: its topics, and positions and attitudes over time."""

    def __init__(
        self, recording: Recording, topic: str | None, report: Callable[[str], None]
    ) -> None:
        self.recording, self._report = recording, report
        self._bag = Rosbag(recording.path)
        self._tree = TransformTree(str(recording.path), report=report)
        self._tracks: dict[str, Track] = {}
        self._images: Counter[tuple[str, str]] = Counter()
        self._unstamped = False
        self._look()
        self.topic, self.kind = self._chosen(topic)
        self.count = self._images[self.topic, self.kind]
        self._track = self._chosen_track()

    def images(self) -> Iterator[BagMessage]:
        """Messages of the topic."""
        for message in self._bag.messages({self.kind}):
            if message.topic == self.topic:
                yield message

    def header(self, fields: Any, message: BagMessage) -> Header:
        """The header of an image; without a stamp it takes the recorder's time."""
        time_ns = stamp_ns(fields.header.stamp)
        if not time_ns:
            time_ns = message.time_ns
            if not self._unstamped:
                self._unstamped = True
                self._report(
                    f"{self.recording.path}: images of {self.topic} have no stamp; their time is "
                    "that of the recorder"
                )
        return Header(time_ns, fields.header.frame_id)

    def capture(self, header: Header) -> Capture:
        """When, where and how an image was taken."""
        time = _EPOCH + timedelta(microseconds=header.stamp_ns / 1000)
        position = None if self._track is None else self._track.at(header.stamp_ns)[0]
        return Capture(
            time.isoformat(timespec="milliseconds"),
            position,
            attitude=self._tree.attitude(header.frame_id, header.stamp_ns),
        )

    def _look(self) -> None:
        """Read everything but the pixels; what is damaged is said when the images are read."""
        try:
            for message in self._bag.messages({_IMAGE, _COMPRESSED, _FIX, _TF}):
                if message.kind in (_IMAGE, _COMPRESSED):
                    self._images[message.topic, message.kind] += 1
                else:
                    self._add_reading(message)
        except BadInput:
            if not self._images:
                raise

    def _add_reading(self, message: BagMessage) -> None:
        try:
            fields = deserialize(message)
        except BadInput as error:
            self._report(f"{self.recording.path}: {error}, which is left out")
            return
        if message.kind == _TF:
            still = message.topic == _STATIC
            add_transforms(self._tree, fields, recorded_ns=message.time_ns, still=still)
            return
        track = self._tracks.get(message.topic)
        if track is None:
            name = f"{self.recording.path} {message.topic}"
            track = self._tracks[message.topic] = Track(name, report=self._report)
        add_fix(track, fields, recorded_ns=message.time_ns)

    def _chosen(self, topic: str | None) -> tuple[str, str]:
        path, there = self.recording.path, sorted(self._images)
        if not there:
            raise BadInput("no images in it (sensor_msgs Image or CompressedImage)", where=path)
        listed = ", ".join(f"{name} ({self._images[name, kind]})" for name, kind in there)
        if topic is None and len(there) == 1:
            return there[0]
        found = [one for one in there if one[0] == topic]
        if topic is None or not found:
            what = (
                "has images of more than one topic"
                if topic is None
                else f"has no images of {topic}"
            )
            raise BadInput(
                f"{what}: {listed}",
                where=path,
                fix=f"choose with {command('--topic', there[0][0])}",
            )
        return found[0]

    def _chosen_track(self) -> Track | None:
        """The track of the topic with the most positions."""
        if not self._tracks:
            return None
        topic, track = max(self._tracks.items(), key=lambda one: len(one[1]))
        others = len(self._tracks) - 1
        more = f", of {others + 1} topics that with the most" if others else ""
        self._report(f"{self.recording.path}: position by {topic}{more}: {track.describe()}")
        return track

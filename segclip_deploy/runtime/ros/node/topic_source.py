"""Images of a topic as a source of frames."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.progress import Say
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.sources.base import Header, Shot, Unreadable
from segclip_deploy.runtime.io.telemetry.capture import Capture
from segclip_deploy.runtime.ros.messages import ImageFields, read_compressed, read_image
from segclip_deploy.runtime.ros.node.flight_status import FlightStatus
from segclip_deploy.runtime.ros.node.ros_node import RosNode

__all__ = ["TopicSource"]

_POLL_S = 0.1  # how soon a signal is noticed while nothing comes
_LOOK_S = 1.0  # without an image: how often publishers are looked at
_SILENCE_S = 5.0  # without an image: when that is said
_BEHIND_S = 10.0  # that images wait longer than the first did
# Images that may wait in the middleware before the thread that takes them comes by; it would overwrite
# them uncounted. The profile of sensors has 5.
_BURST = 20
_MANY = 10  # images lost, and one in so many: when that is said
_KINDS = ("Image", "CompressedImage")


class TopicSource:
    """Images and compressed images of a topic.

    By default it subscribes as to sensors, with best effort: the newest image is kept, others
    are dropped. A reliable subscription keeps all, and loses none that the publisher keeps.

    Args:
        node: that subscribes.
        topic: its name. It is taken to hold compressed images if it ends with ``compressed``, until
            a publisher says otherwise.
        reliable: lose no image, whatever it takes.
        bands: as of ``read_image``.
        status: counts what is received and lost.
        say: is told when the topic is silent, and when it comes back.

    Raises:
        UsageError: the topic's name is none.
    """

    total: int | None = None

    def __init__(
        self,
        node: RosNode,
        topic: str,
        *,
        reliable: bool,
        bands: tuple[int, int, int] | None,
        status: FlightStatus,
        say: Say,
    ) -> None:
        self.live, self.reconnects, self.dropped = not reliable, 0, 0
        self._given = topic  # ROS remaps what it is given, and would remap a remapped name again
        try:
            self.topic = node.node.resolve_topic_name(topic)
        except Exception as error:  # of rclpy, several
            raise UsageError(f"no name of a topic ({error})", where=f"--image {topic}") from error
        self._node, self._bands, self._status, self._say = node, bands, status, say
        self._waiting: deque[tuple[Any, float]] = deque()
        self._subscription: Any = None
        self._kind = _KINDS[self.topic.endswith("compressed")]
        self._subscribe(self._kind)
        self._heard = self._looked = time.perf_counter()
        self._silent = self._behind = self._lossy = False
        self._least_age: int | None = None

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:
        """Read images as they come, until ``stop`` is set."""
        index, first = 0, time.perf_counter()
        started = first
        while not stop.is_set() and self._node.spin_once(_POLL_S):
            if not self._waiting:
                self._watch()
            while self._waiting and not stop.is_set():
                message, clock = self._waiting.popleft()
                self._welcome(message)
                yield self._shot(message, index, clock - first, started, clock)
                index += 1
                started = self._heard = time.perf_counter()  # a full queue is no silence

    def _shot(
        self, message: Any, index: int, seconds: float, started: float, clock: float
    ) -> Shot | Unreadable:
        try:
            frame = self._frame(message)
        except BadInput as error:
            return Unreadable(self.topic, error)
        stamp = message.header.stamp
        header = Header(stamp.sec * 10**9 + stamp.nanosec, message.header.frame_id)
        read_ms = 1e3 * (time.perf_counter() - started)
        name = f"live_{index:06d}"
        return Shot(frame, name, index, Capture(), seconds, read_ms, clock, header=header)

    def _frame(self, message: Any) -> Frame:
        if self._kind == "CompressedImage":
            return read_compressed(message.format, message.data, self.topic, bands=self._bands)
        fields = ImageFields(
            message.height,
            message.width,
            message.encoding,
            message.is_bigendian,
            message.step,
            message.data,
        )
        return read_image(fields, self.topic, bands=self._bands)

    def _subscribe(self, kind: str) -> None:
        if self._subscription is not None:
            self._node.node.destroy_subscription(self._subscription)
        self._kind, ros = kind, self._node.ros
        qos = ros.rclpy.qos
        reliability = qos.ReliabilityPolicy
        profile = (
            qos.QoSProfile(depth=_BURST, reliability=reliability.BEST_EFFORT)
            if self.live
            else qos.QoSProfile(
                history=qos.HistoryPolicy.KEEP_ALL, reliability=reliability.RELIABLE
            )
        )
        message, events = getattr(ros.sensor, kind), ros.events
        subscribe = partial(
            self._node.node.create_subscription, message, self._given, self._take, profile
        )
        try:
            told = events.SubscriptionEventCallbacks(message_lost=self._lose)
            self._subscription = subscribe(event_callbacks=told)
        except events.UnsupportedEventTypeError:
            self._say("warning: this middleware does not tell of lost images; lost stays 0")
            self._subscription = subscribe()

    def _take(self, message: Any) -> None:
        self._waiting.append((message, time.perf_counter()))
        self._status.add("received")

    def _lose(self, event: Any) -> None:
        lost, arrived = event.total_count, self._status.counts["received"]
        self._status.set_total("lost", lost)
        if not self._lossy and lost >= _MANY and lost > arrived / _MANY:
            self._lossy = True
            self._say(
                f"warning: {self.topic}: {lost} images were lost on their way here, {arrived} arrived. They "
                "do not fit into the middleware's shared memory, or the network drops them: "
                "docs/how-to/ros.md, «Lost images»"
            )

    def _welcome(self, message: Any) -> None:
        """Say that images come again, or that they come faster than they are labelled."""
        if self._silent:
            self._silent = False
            self.reconnects += 1
            self._say(f"{self.topic}: there again")
        stamp = message.header.stamp
        age = self._node.now_ns() - (stamp.sec * 10**9 + stamp.nanosec)
        self._least_age = age if self._least_age is None else min(age, self._least_age)
        behind = (age - self._least_age) / 1e9
        if not self.live and not self._behind and behind > _BEHIND_S:
            self._say(
                f"warning: {self.topic}: images wait {behind:.0f} s; they come faster than they are "
                "labelled, and memory grows. Slow the publisher, or leave --reliable out"
            )
        self._behind = behind > _BEHIND_S

    def _watch(self) -> None:
        """Look for the reason why no image comes."""
        now = time.perf_counter()
        if now - self._heard < _LOOK_S or now - self._looked < _LOOK_S:
            return
        self._looked = now
        found = self._node.node.get_publishers_info_by_topic(self._given)
        kinds = [info.topic_type.rpartition("/")[2] for info in found]
        if kinds and self._kind not in kinds and {*kinds} & {*_KINDS}:
            self._subscribe(next(kind for kind in kinds if kind in _KINDS))
            self._say(f"{self.topic}: publishes {self._kind}, and is read as such")
        elif now - self._heard > _SILENCE_S and not self._silent:
            self._silent = True
            self._say(f"{self.topic}: no image for {_SILENCE_S:g} s; {self._reason(found)}")

    def _reason(self, found: list[Any]) -> str:
        if not found:
            return "nobody publishes it; ros2 topic list shows the topics there are"
        others = sorted({i.topic_type for i in found if not i.topic_type.endswith(_KINDS)})
        if others:
            return f"it has {', '.join(others)}, and images are read"
        reliable = self._node.ros.rclpy.qos.ReliabilityPolicy.RELIABLE
        if not self.live and all(i.qos_profile.reliability != reliable for i in found):
            return "its publisher is best effort, so leave --reliable out"
        return f"it has {len(found)} publisher{'s' * (len(found) > 1)}"

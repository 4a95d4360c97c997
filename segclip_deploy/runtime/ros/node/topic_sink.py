"""Labels as topics."""

from __future__ import annotations

import threading
import time
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.progress import Say
from segclip_deploy.runtime.io.sinks.base import FrameResult, RasterResult, WriteTimes
from segclip_deploy.runtime.io.sources.base import Header
from segclip_deploy.runtime.ros.messages import image_fields
from segclip_deploy.runtime.ros.node.flight_status import FlightStatus
from segclip_deploy.runtime.ros.node.ros_node import NodeOptions, RosNode

__all__ = ["TopicSink"]

_DEPTH = 10  # messages kept for a subscriber that has not acknowledged them
_PATIENCE_S = 0.2  # how soon a signal is noticed while a subscriber is waited for
_SAID_AFTER_S = 5.0
_FAREWELL_S = 2.0  # for subscribers to take the last labels


class TopicSink:
    """Publishes ``~/labels`` (mono8), and on request ``~/overlay`` (rgb8) and ``~/margin`` (mono8).

    Each has the stamp and the frame of its image. ``~/label_info`` has the names of the classes, for
    whoever comes later, too; only where ``vision_msgs`` is installed. A frame without a label map is
    not published. A reliable sink waits for subscribers that are slow or dead.

    Args:
        node: that publishes.
        options: whether overlays and margins are wanted, and whether none may be lost.
        vocabulary: names of the classes.
        status: counts what is published.
        stop: ends the waiting for subscribers.
        say: is told of subscribers that are waited for.
    """

    def __init__(
        self,
        node: RosNode,
        options: NodeOptions,
        vocabulary: Vocabulary,
        *,
        status: FlightStatus,
        stop: threading.Event,
        say: Say,
    ) -> None:
        self._node, self._status, self._stop, self._say = node, status, stop, say
        self._reliable, self._unacknowledged = options.reliable, 0
        wanted = {"labels": True, "overlay": options.overlay, "margin": options.margin}
        image = node.ros.sensor.Image
        self._publishers = {
            name: node.publisher(image, f"~/{name}", depth=_DEPTH)
            for name, is_wanted in wanted.items()
            if is_wanted
        }
        self._messages = {name: image() for name in self._publishers}
        self._label_info = self._publish_names(vocabulary)

    def __enter__(self) -> TopicSink:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reliable:
            self._acknowledged(_FAREWELL_S)

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        """Publish a frame's labels, and what else is wanted."""
        started = time.perf_counter()
        if isinstance(result, RasterResult):
            return WriteTimes(0.0)
        shot, labelled, deadline = result.shot, result.labelled, result.deadline
        if result.dropped is not None:
            self._status.set_total("dropped", result.dropped)
        if labelled is None:
            self._status.add("refused" if result.refused else "skipped")
            return WriteTimes(0.0, 1e3 * (started - shot.clock))
        if self._reliable:
            self._wait()
        header = shot.header or Header(0, "")
        self._publish("labels", labelled.labels, header)
        age_ms = 1e3 * (time.perf_counter() - shot.clock)
        stamped = header.stamp_ns and 1e-6 * (self._node.now_ns() - header.stamp_ns)
        self._status.add_labelled(age_ms, stamped or None)
        if deadline is not None and not deadline.met:
            self._status.add("late")
        if "margin" in self._publishers and labelled.margin is not None:
            self._publish("margin", labelled.margin, header)
        if "overlay" in self._publishers and result.overlay is not None:
            self._publish("overlay", np.asarray(result.overlay), header)
        return WriteTimes(1e3 * (time.perf_counter() - started), age_ms)

    def _publish(self, name: str, pixels: NDArray[np.uint8], header: Header) -> None:
        fields, message = image_fields(pixels), self._messages[name]
        message.height, message.width = fields.height, fields.width
        message.encoding, message.step = fields.encoding, fields.step
        seconds, nanoseconds = divmod(header.stamp_ns, 10**9)
        message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
        message.header.frame_id = header.frame_id
        if len(message.data) != fields.data.size:
            message.data = array(
                "B", bytes(fields.data.size)
            )  # a list would be checked byte by byte
        np.frombuffer(message.data, np.uint8)[:] = (
            fields.data
        )  # fresh memory would cost as much again
        self._publishers[name].publish(message)

    def _wait(self) -> None:
        """Let no message be overwritten that a subscriber has not acknowledged."""
        if self._unacknowledged == _DEPTH:
            started, said = time.perf_counter(), False
            while not (self._acknowledged(_PATIENCE_S) or self._stop.is_set()):
                if not said and time.perf_counter() - started > _SAID_AFTER_S:
                    said = True
                    self._say("a subscriber does not take what is published; waiting for it")
            self._unacknowledged = 0
        self._unacknowledged += 1

    def _acknowledged(self, seconds: float) -> bool:
        timeout = self._node.ros.rclpy.duration.Duration(seconds=seconds)
        return all(p.wait_for_all_acked(timeout) for p in self._publishers.values())

    def _publish_names(self, vocabulary: Vocabulary) -> Any:
        vision = self._node.ros.vision
        if vision is None:
            return None
        publisher = self._node.publisher(vision.LabelInfo, "~/label_info", depth=1, latched=True)
        info = vision.LabelInfo()
        info.header.stamp = self._node.node.get_clock().now().to_msg()
        for index, name in enumerate(vocabulary.names):
            info.class_map.append(vision.VisionClass(class_id=index, class_name=name))
        publisher.publish(info)
        return publisher

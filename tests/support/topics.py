"""The rest of a robot, for tests of the node: a camera that publishes, and whoever takes labels.

    python -m tests.support.topics take TOPIC   prints a line for each image, until it is killed
    python -m tests.support.topics send COUNT [SIDE HERTZ]   publishes so many images, reliably

Within one process Fast DDS hands messages over without its queues, so what queues do is seen between two.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from segclip_deploy import api
from segclip_deploy.runtime.ros.node.node_result import NodeResult
from segclip_deploy.runtime.ros.node.ros_library import load_ros
from tests.conftest import ROOT

IMAGE = "/camera/image_raw"
PATIENCE_S = 20.0
EXAMPLES = ROOT / "examples" / "ros"


def environment() -> dict[str, str]:
    """Variables that keep messages on this machine, and apart from other tests on it."""
    own = {
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    if os.environ.get("ROS_DISTRO") == "humble":
        own["ROS_LOCALHOST_ONLY"] = "1"
    return own


class Robot:
    """A node that publishes images and keeps what it hears; a context manager.

    Args:
        keep_all: publish reliably, and wait where subscribers cannot follow.
        best_effort: publish with the quality of service of sensors.
        kind: of the messages it publishes.
        topic: that it publishes.

    Attributes:
        heard: messages by topic.
    """

    def __init__(
        self,
        *,
        keep_all: bool = False,
        best_effort: bool = False,
        kind: str = "Image",
        topic: str = IMAGE,
    ) -> None:
        self.ros = load_ros()
        rclpy, qos = self.ros.rclpy, self.ros.rclpy.qos
        self.reliable = qos.QoSProfile(
            history=qos.HistoryPolicy.KEEP_ALL, reliability=qos.ReliabilityPolicy.RELIABLE
        )
        usual = qos.QoSProfile(depth=10, reliability=qos.ReliabilityPolicy.RELIABLE)
        profile = self.reliable if keep_all else usual
        if best_effort:
            profile = qos.qos_profile_sensor_data
        self._context = rclpy.context.Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.node.Node("robot", context=self._context)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._publisher = self.node.create_publisher(getattr(self.ros.sensor, kind), topic, profile)
        self.heard: dict[str, list[Any]] = {}

    def __enter__(self) -> Robot:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def hear(self, topic: str, kind: Any = None) -> list[Any]:
        """Subscribe to a topic; the list grows while the robot spins."""
        heard = self.heard.setdefault(topic, [])
        self.node.create_subscription(
            kind or self.ros.sensor.Image, topic, heard.append, self.reliable
        )
        return heard

    def spin(self, seconds: float) -> None:
        """Take what comes, for as long."""
        self.until(lambda: False, seconds, must=False)

    def until(
        self, ready: Callable[[], object], seconds: float = PATIENCE_S, *, must: bool = True
    ) -> None:
        """Take what comes, until something is so."""
        end = time.monotonic() + seconds
        while not ready():
            left = end - time.monotonic()
            if left < 0:
                assert not must, "it did not come to be in time"
                return
            self._executor.spin_once(timeout_sec=min(left, 0.05))

    def meet(self, publishers: tuple[str, ...] = ("/segclip/labels",)) -> None:
        """Wait for the node: it hears the camera, and its publishers are heard."""
        self.until(lambda: self._publisher.get_subscription_count() >= 1)
        self.until(lambda: all(self.node.count_publishers(p) for p in publishers))
        self.spin(0.3)  # both ends of a connection learn of it

    def publish_until(self, ready: Callable[[], object], message: Any) -> int:
        """Publish a message again and again, and count that: the first may come before the node listens."""
        count = 0

        def publish() -> object:
            nonlocal count
            self.publish(message)
            count += 1
            self.spin(0.05)
            return ready()

        self.until(publish)
        return count

    def image(self, pixels: NDArray[np.uint8], number: int = 0, encoding: str = "rgb8") -> Any:
        """A message; its stamp and frame tell its number."""
        height, width = pixels.shape[:2]
        message = self.ros.sensor.Image(
            height=height, width=width, encoding=encoding, step=pixels.size // height
        )
        message.data = array("B", np.ascontiguousarray(pixels).tobytes())
        return self.numbered(message, number)

    def numbered(self, message: Any, number: int) -> Any:
        """Give a message the stamp and frame of a number."""
        message.header.stamp.sec, message.header.stamp.nanosec = 1700000000 + number, number
        message.header.frame_id = f"camera_{number}"
        return message

    def acknowledged(self, seconds: float) -> bool:
        """Wait until all that was published is taken."""
        timeout = self.ros.rclpy.duration.Duration(seconds=seconds)
        return bool(self._publisher.wait_for_all_acked(timeout))

    def publish(self, message: Any) -> None:
        """Publish a message, again where a full queue kept it back."""
        while True:
            try:
                return self._publisher.publish(message)
            except Exception:  # of C: it waited as long as it may
                self.spin(0.0)


def companion(*words: object) -> subprocess.Popen[str]:
    """Another process, of this module's command line."""
    command = [sys.executable, "-m", "tests.support.topics", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def launched(**arguments: str) -> list[str]:
    """The command that the launch file starts, as launch puts it together."""
    launch = ElementTree.parse(EXAMPLES / "segclip.launch.xml").getroot()
    values = {arg.attrib["name"]: arg.attrib.get("default") for arg in launch.iter("arg")}
    assert not arguments.keys() - values.keys()
    values |= arguments
    (executable,) = launch.iter("executable")

    def value(found: re.Match[str]) -> str:
        return str(values[found[1]]).replace("$(dirname)", str(EXAMPLES))

    return [
        re.sub(r"\$\(var (\w+)\)", value, word)
        for word in shlex.split(executable.attrib["cmd"].replace("$(var ", "$(var\\ "))
    ]


def numbers(messages: list[Any]) -> list[int]:
    """Of messages, by their stamps; their frames must say the same."""
    found = [message.header.stamp.nanosec for message in messages]
    assert [m.header.stamp.sec for m in messages] == [1700000000 + n for n in found]
    assert [m.header.frame_id for m in messages] == [f"camera_{n}" for n in found]
    return found


def pixels_of(message: Any) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) of an image that the node published."""
    channels = {"mono8": (), "rgb8": (3,)}[message.encoding]
    assert message.step == message.width * (channels or (1,))[0]
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, *channels)


@contextmanager
def flying(engine: str = "engine", **options: Any) -> Iterator[tuple[list[str], list[NodeResult]]]:
    """The node in a thread: the lines it says, and its result once the body has ended."""
    lines: list[str] = []
    results: list[Any] = []
    stop = threading.Event()

    def report(what: str, done: int, total: int) -> None:
        if not done and not total:
            lines.append(what)

    def fly() -> None:
        try:
            results.append(api.ros(engine, **{"image": IMAGE, **options}, stop=stop, report=report))
        except Exception as error:  # raised where the test sees it
            results.append(error)

    thread = threading.Thread(target=fly)
    thread.start()
    try:
        yield lines, results
    finally:
        stop.set()
        thread.join()
    if isinstance(results[0], Exception):
        raise results[0]


def take(topic: str) -> None:
    """Subscribe reliably, and say each image's number."""
    with Robot(topic="/nothing") as robot:
        heard = robot.hear(topic)
        while True:
            count = len(heard)
            robot.until(lambda: len(heard) > count, 0.1, must=False)  # noqa: B023
            for message in heard[count:]:
                print(message.header.stamp.nanosec, flush=True)


def send(count: int, side: int = 64, hertz: float = 0.0) -> None:
    """Publish images as fast as the queue takes them, or so often, until all were taken."""
    from tests.support.fakes import random_frame

    with Robot(keep_all=True) as robot:
        robot.meet()
        for number in range(count):
            robot.publish(robot.image(random_frame(side, side, number).pixels, number))
            if hertz:
                time.sleep(1 / hertz)
        assert robot.acknowledged(10 + count / 50)


if __name__ == "__main__":
    verb, first, *more = sys.argv[1:]
    if verb == "take":
        take(first)
    send(int(first), *map(int, more))

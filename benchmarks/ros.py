"""What the ROS 2 node adds to ``segment()``, and what sensors' quality of service loses on its way.

    python benchmarks/ros.py [ENGINE] [--rounds 5] [--images 30] [--profile examples/ros/fastdds.xml]

A camera in another process publishes images of 1024² at 10 Hz. Without ENGINE, one that sleeps for 20 ms stands
for a GPU. Added is the time from the callback until the labels were published, less that of ``segment()`` for
the same image; below it is the bare ``segment()``, in turns with the flights, in the same process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from record import record

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.sinks.base import FrameResult, RasterResult, WriteTimes
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.ros.node.flight_status import FlightStatus
from segclip_deploy.runtime.ros.node.ros_library import load_ros
from segclip_deploy.runtime.ros.node.ros_node import NodeOptions, RosNode
from segclip_deploy.runtime.ros.node.topic_sink import TopicSink
from segclip_deploy.runtime.ros.node.topic_source import TopicSource
from segclip_deploy.runtime.streaming.run import Run
from segclip_deploy.runtime.targets.fake import FakeBackend

SIDE, HERTZ, TOPIC = 1024, 10.0, "/camera"
CHANNELS = {"rgb8": 3, "bgr8": 3, "yuv422": 2}


class Sleeping(FakeBackend):
    """Takes as long as a GPU, and no processor."""

    def infer(self, _: Any) -> Any:
        """Sleep."""
        time.sleep(0.02)
        return self._results


class Timed(TopicSink):
    """Keeps what each image took beside inference, milliseconds."""

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        """Publish, and keep the time."""
        times = super().write(result)
        if isinstance(result, FrameResult) and result.labelled and times.age_ms:
            self.added.append(times.age_ms - result.labelled.times.total)
            self.inferred.append(result.labelled.times.total)
        return times


def image(encoding: str) -> np.ndarray:
    """Noise."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (SIDE, SIDE, CHANNELS[encoding]), dtype=np.uint8)


def publish(encoding: str, count: int, reliable: bool) -> None:
    """Be the camera."""
    ros = load_ros()
    ros.rclpy.init(args=[])
    node, qos = ros.rclpy.node.Node("camera"), ros.rclpy.qos
    reliability = qos.ReliabilityPolicy.RELIABLE if reliable else qos.ReliabilityPolicy.BEST_EFFORT
    camera = node.create_publisher(
        ros.sensor.Image, TOPIC, qos.QoSProfile(depth=10, reliability=reliability)
    )
    while not camera.get_subscription_count():
        time.sleep(0.05)
    time.sleep(0.5)
    message = ros.sensor.Image(
        height=SIDE, width=SIDE, encoding=encoding, step=SIDE * CHANNELS[encoding]
    )
    message.data = array("B", image(encoding).tobytes())
    for _ in range(count):
        camera.publish(message)
        time.sleep(1 / HERTZ)
    time.sleep(0.5)


def fly(segmenter: Segmenter, encoding: str, count: int, *, reliable: bool) -> tuple[Timed, int]:
    """Label what the camera publishes: the sink, and how many images came."""
    stop, status = threading.Event(), FlightStatus()
    with RosNode(load_ros()) as node:
        options = NodeOptions(reliable=reliable)
        source = TopicSource(
            node, TOPIC, reliable=reliable, bands=None, status=status, say=lambda _: None
        )
        sink = Timed(
            node, options, segmenter.vocabulary, status=status, stop=stop, say=lambda _: None
        )
        sink.added, sink.inferred = [], []
        words = [__file__, "--publish", encoding, "--images", str(count)]
        camera = subprocess.Popen(
            [sys.executable, *words, *["--best-effort"] * (not reliable)], env=os.environ
        )
        threading.Thread(target=lambda: (camera.wait(), stop.set())).start()
        with sink:
            for outcome in Run(segmenter, source, sink, stop=stop):
                assert outcome.error is None
    return sink, status.counts["received"]


def alone(segmenter: Segmenter, count: int) -> float:
    """Median of ``segment()`` without a node, at the same rate."""
    frame, taken = Frame(image("rgb8"), "noise"), []
    for _ in range(count):
        taken.append(segmenter.segment(frame).times.total)
        time.sleep(max(0.0, 1 / HERTZ - taken[-1] / 1e3))
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--profile", type=Path, default=Path("examples/ros/fastdds.xml"))
    parser.add_argument("--publish")
    parser.add_argument("--best-effort", action="store_true")
    options = parser.parse_args()
    if options.publish:
        publish(options.publish, options.images, not options.best_effort)
        return
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    sleeping = Segmenter(Sleeping(SIDE, SIDE), InputSpec(SIDE, SIDE), load_vocabulary("dubai"))
    with open_segmenter(options.engine) if options.engine else sleeping as segmenter:
        found: dict[str, Any] = {encoding: [] for encoding in CHANNELS}
        bare = []
        for turn in range(options.rounds):
            for encoding in [*CHANNELS][:: -1 if turn % 2 else 1]:
                sink, received = fly(segmenter, encoding, options.images, reliable=True)
                assert received == options.images
                found[encoding].append((median(sink.added[3:]), median(sink.inferred[3:])))
            bare.append(alone(segmenter, options.images))
        name = segmenter.backend.name
        rows = [
            {
                "encoding": encoding,
                "added_ms": [round(added, 2) for added, _ in rounds],
                "median_added_ms": round(median(added for added, _ in rounds), 2),
                "segment_ms": round(median(inferred for _, inferred in rounds), 2),
            }
            for encoding, rounds in found.items()
        ]
        arrived = {"usual": fly(segmenter, "rgb8", options.images, reliable=False)[1]}
        maker = "RTPS" if os.environ.get("ROS_DISTRO") == "humble" else "DDS"
        os.environ[f"FAST{maker}_DEFAULT_PROFILES_FILE"] = str(options.profile.resolve())
        arrived["profile"] = fly(segmenter, "rgb8", options.images, reliable=False)[1]
    path = record(
        "ros",
        rows,
        engine=name,
        size=SIDE,
        hertz=HERTZ,
        images=options.images,
        rounds=options.rounds,
        segment_alone_ms=round(median(bare), 2),
        best_effort_arrived=arrived,
    )
    print(path.read_text())


if __name__ == "__main__":
    main()

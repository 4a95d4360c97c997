"""What is said where ROS, or a package of it, is missing; and what needs no other node to be seen."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segclip_deploy import api
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import MissingDependency
from segclip_deploy.runtime.ros.node import ros_library
from segclip_deploy.runtime.ros.node.flight_status import FlightStatus
from segclip_deploy.runtime.ros.node.ros_library import load_ros
from segclip_deploy.runtime.ros.node.ros_node import NodeOptions
from segclip_deploy.runtime.ros.node.topic_sink import TopicSink
from segclip_deploy.runtime.ros.node.topic_source import TopicSource

DUBAI = load_vocabulary("dubai")


@pytest.mark.parametrize(("there", "named"), [((), "humble"), (("humble", "jazzy"), "jazzy")])
def test_without_ros_the_setup_file_and_the_package_are_named(
    there: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "setup.bash").touch()
    monkeypatch.setattr(ros_library, "_DISTRIBUTIONS", tmp_path)
    monkeypatch.setitem(sys.modules, "rclpy", None)
    with pytest.raises(MissingDependency) as caught:
        api.ros("engine", image="/camera")
    assert str(caught.value) == (
        "a ROS 2 node needs the package 'rclpy', which is not installed; "
        f"source {tmp_path}/{named}/setup.bash, after apt-get install ros-{named}-rclpy"
    )


@pytest.mark.ros
def test_a_missing_package_of_messages_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diagnostic_msgs.msg", None)
    with pytest.raises(MissingDependency, match=r"apt-get install ros-humble-diagnostic-msgs$"):
        load_ros()


@pytest.mark.ros
@pytest.mark.parametrize(
    ("names", "found"), [(None, False), (("VisionClass",), False), (("VisionClass", "LabelInfo"), True)]
)  # fmt: skip
def test_vision_messages_are_used_where_they_know_label_info(
    names: tuple[str, ...] | None, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = names and SimpleNamespace(**dict.fromkeys(names, object))
    monkeypatch.setitem(sys.modules, "vision_msgs", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", module)
    assert (load_ros().vision is not None) == found


class StandIn:
    """In the place of a ``RosNode``; keeps what is asked of it."""

    def __init__(self, vision: Any = None) -> None:
        self.made: list[tuple[str, int, bool]] = []
        self.published: list[Any] = []
        self.now, self.tells = 0, True
        self.node = self
        policies = SimpleNamespace(RELIABLE=1, BEST_EFFORT=2, KEEP_ALL=3)
        qos = SimpleNamespace(
            ReliabilityPolicy=policies, HistoryPolicy=policies, QoSProfile=SimpleNamespace
        )
        self.ros = SimpleNamespace(
            vision=vision,
            sensor=SimpleNamespace(Image=SimpleNamespace),
            rclpy=SimpleNamespace(qos=qos),
            events=SimpleNamespace(
                SubscriptionEventCallbacks=SimpleNamespace, UnsupportedEventTypeError=KeyError
            ),
        )

    def publisher(self, _: Any, topic: str, *, depth: int, latched: bool = False) -> Any:
        self.made.append((topic, depth, latched))
        return SimpleNamespace(publish=self.published.append)

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: "now"))

    def resolve_topic_name(self, topic: str) -> str:
        return topic

    def create_subscription(self, *_: Any, **events: Any) -> str:
        if events and not self.tells:
            raise KeyError
        return "subscribed"

    def now_ns(self) -> int:
        return self.now


def test_class_names_are_latched_where_vision_messages_are() -> None:
    """PyPI has no wheel of ``vision_msgs``; the fields are those of its LabelInfo in Humble."""

    def label_info() -> Any:
        return SimpleNamespace(header=SimpleNamespace(stamp=None), class_map=[], threshold=0.0)

    vision = SimpleNamespace(LabelInfo=label_info, VisionClass=SimpleNamespace)
    for node in (StandIn(vision), StandIn()):
        options = {"status": FlightStatus(), "stop": threading.Event(), "say": print}
        TopicSink(node, NodeOptions(), DUBAI, **options)  # type: ignore[arg-type]
        if node.ros.vision is None:
            assert node.made == [("~/labels", 10, False)]
            continue
        assert node.made[1:] == [("~/label_info", 1, True)]
        (info,) = node.published
        assert info.header.stamp == "now"
        classes = [(entry.class_id, entry.class_name) for entry in info.class_map]
        assert classes == list(enumerate(DUBAI.names))


def test_many_lost_images_are_warned_about_once() -> None:
    status, lines = FlightStatus(), []
    options = {"reliable": False, "bands": None, "status": status, "say": lines.append}
    source = TopicSource(StandIn(), "/c", **options)  # type: ignore[arg-type]
    for lost, arrived in ((9, 0), (10, 120), (30, 200), (31, 200)):
        status.set_total("received", arrived)
        source._lose(SimpleNamespace(total_count=lost))
    (line,) = lines
    assert line.startswith("warning: /c: 30 images were lost on their way here, 200 arrived.")
    assert status.counts["lost"] == 31


def test_a_middleware_that_does_not_tell_of_lost_images_is_said() -> None:
    node, lines = StandIn(), []
    node.tells = False
    options = {"reliable": False, "bands": None, "status": FlightStatus(), "say": lines.append}
    source = TopicSource(node, "/c", **options)  # type: ignore[arg-type]
    assert source._subscription == "subscribed"
    assert lines == ["warning: this middleware does not tell of lost images; lost stays 0"]


def test_images_that_pile_up_are_warned_about_once() -> None:
    """Whatever the camera's clock says: what counts is how much longer an image waits than the first did."""
    node, lines = StandIn(), []
    source = TopicSource(
        node,  # type: ignore[arg-type]
        "/c",
        reliable=True,
        bands=None,
        status=FlightStatus(),
        say=lines.append,
    )
    for seconds, waits in enumerate([3, 3, 12, 14, 15, 16, 2, 14]):
        stamp = SimpleNamespace(sec=100 + seconds, nanosec=0)
        node.now = (5000 + seconds + waits) * 10**9
        source._welcome(SimpleNamespace(header=SimpleNamespace(stamp=stamp)))
    warning = "come faster than they are labelled, and memory grows"
    assert [
        f"/c: images wait {s} s; they " in line for s, line in zip((11, 12), lines, strict=True)
    ] == [True] * 2
    assert all(warning in line for line in lines)

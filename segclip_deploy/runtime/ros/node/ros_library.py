"""ROS 2's Python packages. They come with the robot's ROS, not with pip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from segclip_deploy._optional import load, require
from segclip_deploy.errors import command

__all__ = ["RosLibrary", "load_ros"]

_DISTRIBUTIONS = Path("/opt/ros")
_OLDEST = "humble"  # what JetPack 6 flies


@dataclass(frozen=True)
class RosLibrary:
    """The modules of ROS that the node uses; only what ROS 2 Humble has is used of them.

    Attributes:
        rclpy: ROS 2 for Python, with the modules ``node``, ``qos``, ``executors`` and ``duration``.
        events: callbacks of subscriptions; its module has another name in Humble.
        sensor: messages of images.
        diagnostic: messages of diagnostics.
        descriptor: describes a parameter.
        vision: messages of class names; None where the package is not installed, or too old.
    """

    rclpy: ModuleType
    events: ModuleType
    sensor: ModuleType
    diagnostic: ModuleType
    descriptor: Any
    vision: ModuleType | None


def load_ros() -> RosLibrary:
    """Import ROS 2.

    Raises:
        MissingDependency: a package of it is not installed, or ROS's setup file was not sourced.
    """
    rclpy = _require("rclpy")
    for part in ("context", "duration", "executors", "node", "qos"):
        load(f"rclpy.{part}")
    try:
        events = load("rclpy.event_handler")
    except ModuleNotFoundError:  # Humble
        events = load("rclpy.qos_event")
    return RosLibrary(
        rclpy,
        events,
        _require("sensor_msgs.msg"),
        _require("diagnostic_msgs.msg"),
        _require("rcl_interfaces.msg").ParameterDescriptor,
        _find_vision(),
    )


def _find_vision() -> ModuleType | None:
    try:
        vision = load("vision_msgs.msg")
    except ImportError:
        return None
    return vision if hasattr(vision, "LabelInfo") else None


def _require(module: str) -> ModuleType:
    return require(module, why="a ROS 2 node", remedy=_remedy(module.partition(".")[0]))


def _remedy(package: str) -> str:
    """The file to source and the package of apt, of the ROS that is there; without one, of Humble."""
    found = sorted(path.parent.name for path in _DISTRIBUTIONS.glob("*/setup.bash"))
    name = found[-1] if found else _OLDEST
    source = command("source", _DISTRIBUTIONS / name / "setup.bash")
    install = command("apt-get", "install", f"ros-{name}-{package.replace('_', '-')}")
    return f"{source}, after {install}"

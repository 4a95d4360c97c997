"""A node in a context of its own: its arguments, its parameters, its quality of service."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from segclip_deploy.errors import SegclipError, UsageError, command
from segclip_deploy.progress import Say
from segclip_deploy.runtime.ros.node.ros_library import RosLibrary

__all__ = ["NODE_NAME", "NodeOptions", "RosNode"]

NODE_NAME = "segclip"
"""Of the node, unless ``-r __node:=…`` gives it another."""

_ROS_OWN = ("use_sim_time", "start_type_description_service", "qos_overrides.")


@dataclass(frozen=True)
class NodeOptions:
    """What parameters of the node can say, too; the names are theirs.

    Attributes:
        deadline_ms: as of ``Run``; as a parameter 0 stands for None.
        margin_below: as of ``Run``; 0: none.
        healthy_only: as of ``Run``.
        overlay: publish overlays.
        margin: publish margins.
        reliable: lose no image.
    """

    deadline_ms: float | None = None
    margin_below: int = 0
    healthy_only: bool = False
    overlay: bool = False
    margin: bool = False
    reliable: bool = False


class RosNode:
    """A node of ROS 2; a context manager. Signals stay with whoever runs it.

    Args:
        ros: of ``load_ros``.
        arguments: what follows ``--ros-args``: remappings, parameters, log levels.

    Attributes:
        node: rclpy's own, once entered.

    Raises:
        UsageError: arguments that ROS does not take.
        SegclipError: ROS does not start.
    """

    def __init__(self, ros: RosLibrary, arguments: Sequence[str] = ()) -> None:
        self.ros, self._arguments = ros, list(arguments)
        self._context = ros.rclpy.context.Context()
        self.node: Any = None
        self._executor: Any = None

    def __enter__(self) -> RosNode:
        rclpy = self.ros.rclpy
        try:
            words = ["--ros-args", *self._arguments] if self._arguments else []
            rclpy.init(args=words, context=self._context)
            self.node = rclpy.node.Node(
                NODE_NAME,
                context=self._context,
                automatically_declare_parameters_from_overrides=True,
            )
        except Exception as error:  # rclpy's own types, and C's, change with the distribution
            self.__exit__()
            if not self._arguments:
                raise SegclipError(f"ROS does not start ({error})") from error
            given = command("--ros-args", *self._arguments)
            raise UsageError(f"ROS does not start with this ({error})", where=given) from error
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(timeout_sec=1.0)
        if self.node is not None:
            self.node.destroy_node()
        self._context.try_shutdown()

    def spin_once(self, seconds: float) -> bool:
        """Call one callback, or wait for as long; False: the node has been closed."""
        if not self._context.ok():
            return False
        with suppress(self.ros.rclpy.executors.ExternalShutdownException):
            self._executor.spin_once(timeout_sec=seconds)
        return bool(self._context.ok())

    def now_ns(self) -> int:
        """ROS time, nanoseconds."""
        return int(self.node.get_clock().now().nanoseconds)

    def settle(self, options: NodeOptions, facts: Mapping[str, Any], say: Say) -> NodeOptions:
        """Take options from the parameters that were given, and declare all, read-only.

        Args:
            options: of the command line; a parameter that is given wins.
            facts: further parameters, which nobody can set.
            say: is told of parameters that this node does not have.

        Raises:
            UsageError: a parameter of another type.
        """
        given = {name: p.value for name, p in self.node.get_parameters_by_prefix("").items()}
        chosen = asdict(options)
        for name in chosen:
            if name in given:
                chosen[name] = _typed(name, given[name], type(getattr(NodeOptions(), name)))
            number = getattr(NodeOptions(), name) is None  # None: no parameter can be that
            self._declare(name, float(chosen[name] or 0) if number else chosen[name])
        for name, value in facts.items():
            self._declare(name, value)
        known = (*chosen, *facts)
        for name in sorted(given.keys() - {*known}):
            if not name.startswith(_ROS_OWN):
                say(
                    f"warning: -p {name}: this node has no such parameter; it has {', '.join(known)}"
                )
        return replace(options, **chosen)

    def _declare(self, name: str, value: Any) -> None:
        if self.node.has_parameter(name):  # by its override; it would stay open to changes
            self.node.undeclare_parameter(name)
        descriptor = self.ros.descriptor(read_only=True)
        self.node.declare_parameter(name, value, descriptor, ignore_override=True)

    def publisher(self, kind: Any, topic: str, *, depth: int, latched: bool = False) -> Any:
        """A reliable publisher, which subscribers of any quality of service can hear.

        Args:
            kind: of its messages.
            topic: its name; ``~/`` stands for the node's.
            depth: messages that are kept for subscribers who have not acknowledged them.
            latched: subscribers who come later get the last one.
        """
        qos = self.ros.rclpy.qos
        durability = qos.DurabilityPolicy
        profile = qos.QoSProfile(
            depth=depth,
            reliability=qos.ReliabilityPolicy.RELIABLE,
            durability=durability.TRANSIENT_LOCAL if latched else durability.VOLATILE,
        )
        return self.node.create_publisher(kind, topic, profile)


def _typed(name: str, value: Any, kind: type) -> Any:
    """A parameter's value as the option takes it."""
    wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
    fits = isinstance(value, bool) == (kind is bool) and isinstance(value, bool | int | float)
    if not (fits and math.isfinite(value)) or (kind is int and isinstance(value, float)):
        raise UsageError(f"{value!r} is not {wanted}", where=f"-p {name}")
    return (float(value) or None) if kind is type(None) else value

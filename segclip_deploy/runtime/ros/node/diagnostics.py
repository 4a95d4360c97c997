"""Diagnostics of the node, once a second: how long labels take, and what went wrong."""

from __future__ import annotations

from threading import Event, Thread

from segclip_deploy.runtime.ros.node.flight_status import FlightStatus
from segclip_deploy.runtime.ros.node.ros_node import RosNode

__all__ = ["Diagnostics"]

_EVERY_S = 1.0
_TOPIC = "/diagnostics"  # where ROS expects them, of all nodes


class Diagnostics:
    """Publishes ``diagnostic_msgs/DiagnosticArray``; a context manager.

    It has a thread of its own: an engine that hangs is what diagnostics are for.

    Args:
        node: that publishes.
        status: what to say.
        hardware: the engine, its library and device.
    """

    def __init__(self, node: RosNode, status: FlightStatus, hardware: str) -> None:
        self._node, self._status, self._hardware = node, status, hardware
        self._publisher = node.publisher(node.ros.diagnostic.DiagnosticArray, _TOPIC, depth=10)
        self._stop = Event()
        self._thread = Thread(target=self._beat, name="diagnostics", daemon=True)

    def __enter__(self) -> Diagnostics:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.publish()

    def publish(self) -> None:
        """Publish what the status says now."""
        messages, node = self._node.ros.diagnostic, self._node.node
        condition = self._status.condition()
        status = messages.DiagnosticStatus(
            level=getattr(messages.DiagnosticStatus, condition.level),
            name=f"{node.get_name()}: labels",
            message=condition.message,
            hardware_id=self._hardware,
            values=[messages.KeyValue(key=k, value=v) for k, v in condition.values.items()],
        )
        array = messages.DiagnosticArray(status=[status])
        array.header.stamp = node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _beat(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.publish()

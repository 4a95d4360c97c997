"""What a node came to, as it is handed over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segclip_deploy.runtime.streaming.summary import Summary

__all__ = ["NodeResult"]


@dataclass(frozen=True)
class NodeResult:
    """What a node came to, when it was stopped.

    Attributes:
        engine: the library that ran, its version and device.
        topic: of the images, as it was remapped.
        summary: counts and times of frames.
        received: images.
        dropped: images that nobody had time for.
        lost: images that did not arrive, as far as the middleware tells.
        reconnects: how often the topic fell silent and came back.
    """

    engine: str
    topic: str
    summary: Summary
    received: int
    dropped: int
    lost: int
    reconnects: int

    def to_json(self) -> dict[str, Any]:
        """As JSON; the fields of ``summary`` stand beside the others."""
        return {
            "engine": self.engine,
            "topic": self.topic,
            **self.summary.to_json(),
            "received": self.received,
            "dropped": self.dropped,
            "lost": self.lost,
            "reconnects": self.reconnects,
        }

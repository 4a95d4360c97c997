"""What ``compact`` made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.checkpoint_record import Compaction
from segclip_deploy.training.compact_state import CompactionRound

__all__ = ["CompactNetwork", "Compacted"]


@dataclass(frozen=True)
class CompactNetwork:
    """A network that ``compact`` made.

    Attributes:
        path: its checkpoint.
        compaction: as its record has it.
        miou: on split ``plan``, 0–1.
    """

    path: Path
    compaction: Compaction
    miou: float

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "path": str(self.path),
            "compaction": self.compaction.to_json(),
            "miou": self.miou,
        }


@dataclass(frozen=True)
class Compacted:
    """What ``compact`` made.

    Attributes:
        networks: one, of the last round that keeps what was asked for; of a family all, from slow to fast.
        rounds: all of them.
    """

    networks: tuple[CompactNetwork, ...]
    rounds: tuple[CompactionRound, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "networks": [network.to_json() for network in self.networks],
            "rounds": [done.to_json() for done in self.rounds],
        }

"""Two profiles side by side, if they may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import GateFailed, command
from segclip_deploy.runtime.profiling.measure import Statistics
from segclip_deploy.runtime.profiling.record import PROFILE, Conditions, ProfileRecord

__all__ = ["Comparison", "Ratio", "compare", "load_profile"]


class Ratio(Record, frozen=True):
    """How many times faster the other is; None where it took no time that could be measured.

    Attributes:
        p50: of medians.
        p99: of 99th percentiles.
    """

    p50: float | None
    p99: float | None


class Comparison(Record, frozen=True):
    """Two profiles side by side.

    Attributes:
        unlike: what differs in their conditions, in words.
        ratios: by stage that both have, and of ``ready`` and ``total``.
    """

    unlike: tuple[str, ...]
    ratios: Mapping[str, Ratio]


def load_profile(path: Path) -> ProfileRecord:
    """Read what ``profile --out`` wrote.

    Raises:
        BadArtifact: not a profile, or of another schema.
    """
    return PROFILE.read(path, fix=command("segclip-deploy", "profile", "ENGINE", "-o", path.parent))


def compare(one: ProfileRecord, other: ProfileRecord, *, force: bool) -> Comparison:
    """How much faster the other is: one's milliseconds over the other's.

    Raises:
        GateFailed: they differ in a condition that matters, and ``force`` is not set.
    """
    differing = _unlike(one.conditions, other.conditions)
    if differing and not force:
        raise GateFailed(
            f"not comparable: {'; '.join(differing)}",
            fix="measure both alike, or compare all the same with --force",
        )
    both = {
        name: (values, other.stages[name])
        for name, values in one.stages.items()
        if name in other.stages
    }
    both |= {"ready": (one.ready, other.ready), "total": (one.total, other.total)}
    return Comparison(unlike=differing, ratios={name: _ratio(*pair) for name, pair in both.items()})


def _ratio(one: Statistics, other: Statistics) -> Ratio:
    return Ratio(
        p50=one.p50 / other.p50 if other.p50 else None,
        p99=one.p99 / other.p99 if other.p99 else None,
    )


def _unlike(one: Conditions, other: Conditions) -> tuple[str, ...]:
    """What differs and makes a comparison meaningless, in words."""
    pairs = zip(_decisive(one).items(), _decisive(other).values(), strict=True)
    return tuple(f"{name} is {a} and {b}" for (name, a), b in pairs if a != b)


def _decisive(conditions: Conditions) -> dict[str, object]:
    """What must be alike before two profiles may be compared, by its name for people."""
    device = conditions.device
    return {
        "cpu": device.cpu.cpu,
        "cores": device.cpu.cores,
        "gpu": device.gpu and device.gpu.gpu,
        "driver": device.gpu and device.gpu.driver,
        "board": device.jetson and device.jetson.board,
        "l4t": device.jetson and device.jetson.l4t,
        "power mode": device.power_mode,
        "governor": device.governor,
        "engine": conditions.engine,
        "threads": conditions.threads,
        "window": conditions.window,
        "batch": conditions.batch,
        "overlap": conditions.overlap,
        "frames": conditions.frame_sizes,
    }

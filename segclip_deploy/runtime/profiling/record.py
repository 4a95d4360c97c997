"""What a profile says, as it is handed over and as it lies on disk: ``profile.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.runtime.profiling.conditions import DeviceConditions, Memory
from segclip_deploy.runtime.profiling.layers import LayerTime, sum_blocks
from segclip_deploy.runtime.profiling.measure import Samples, Statistics, WarmUp, rename_restore
from segclip_deploy.runtime.profiling.power import PowerLog

__all__ = ["PROFILE", "ColdStarts", "Conditions", "Load", "ProfileRecord"]


class Load(Record, frozen=True):
    """Processes that wanted the processor, the mean of a minute; None where it is unknown.

    Attributes:
        before: in the minute before the measurement.
        after: in the last minute of it.
    """

    before: float | None
    after: float | None


class Conditions(Record, frozen=True):
    """The conditions that a profile was taken in.

    Attributes:
        device: the machine.
        engine: library that ran it, and its version.
        path: of the engine or bundle, as it was given.
        sha256: digest of the file that ran.
        bundle_sha256: digest of the record of the bundle it was made of.
        packages: versions of loaded libraries, by name.
        precision: the lowest in the engine.
        window: (height, width) the engine takes, pixels.
        batch: shape of the input, for people: ``(1..8, 512, 512, 3)``.
        overlap: pixels windows share.
        threads: of the engine; 0 where it has none, or chose.
        frames: (height, width) of the frames, each once, pixels.
        images: what the frames were: ``golden tiles``, or files and folders.
        load: of the machine, before and after.
        warm_up: frames that did not count.
    """

    device: DeviceConditions
    engine: str
    path: str
    sha256: str
    bundle_sha256: str
    packages: Mapping[str, str]
    precision: str
    window: tuple[int, int]
    batch: str
    overlap: int
    threads: int
    frames: tuple[tuple[int, int], ...]
    images: Literal["golden tiles"] | tuple[str, ...]
    load: Load
    warm_up: WarmUp

    @property
    def frame_sizes(self) -> str:
        """The sizes of the frames, for people."""
        return ", ".join(f"{height}x{width}" for height, width in self.frames)


class ColdStarts(Record, frozen=True):
    """Milliseconds from the start of a new process to its first label map, one value a process.

    Attributes:
        cached: with what the compile cache holds.
        compiled: with an empty compile cache; None where the library has none, and outside Linux.
    """

    cached: tuple[float, ...]
    compiled: tuple[float, ...] | None


class ProfileRecord(Record, frozen=True):
    """Every millisecond of an engine on a machine.

    Attributes:
        conditions: where and how it was measured.
        stages: milliseconds by stage, in order; copies only where the engine tells them.
        ready: milliseconds from the file to the label map.
        total: milliseconds from the file to the written label map, one after another.
        pixel_ratio: pixels computed over pixels needed, of all frames, each once; None in a file of an
            older schema.
        frames_per_second: with one frame after another.
        deadline_ms: from the file to the label map; None where none was given.
        miss_rate: share of the frames that missed the deadline, 0 to 1.
        memory: that the process takes.
        joules_per_frame: energy at the mean power; None without a sensor.
        cold_start_ms: first label maps of new processes; None where none was asked for.
        layers: of one inference, the slowest first; empty where the engine does not tell.
        samples: what was measured, frame by frame.
        power: what the sensors told meanwhile.
    """

    conditions: Conditions
    stages: Mapping[str, Statistics]
    ready: Statistics
    total: Statistics
    pixel_ratio: float | None
    frames_per_second: float
    deadline_ms: float | None
    miss_rate: float | None
    memory: Memory
    joules_per_frame: float | None
    cold_start_ms: ColdStarts | None
    layers: tuple[LayerTime, ...]
    samples: Samples
    power: PowerLog

    def to_json(self) -> dict[str, Any]:
        """What ``profile.json`` says."""
        return PROFILE.dump(self)

    @property
    def block_ms(self) -> dict[str, float]:
        """Milliseconds of one inference by block, the slowest first; empty where ``layers`` is."""
        return sum_blocks(self.layers)


def _of_schema_2(data: dict[str, Any]) -> dict[str, Any]:
    samples = {**data["samples"], "stages": rename_restore(data["samples"]["stages"])}
    return {**data, "stages": rename_restore(data["stages"]), "samples": samples}


def _of_schema_3(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "pixel_ratio": None}


PROFILE = Format(
    "a profile", ProfileRecord, schema=4, migrations={2: _of_schema_2, 3: _of_schema_3}
)
"""Of ``profile.json``."""

"""Probes, small networks to be timed, and the table of what they took."""

from __future__ import annotations

from collections.abc import Mapping

from segclip_deploy.artifacts.engine_record import CpuDevice, GpuDevice
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadInput

__all__ = ["LATENCY_TABLE", "PROBES", "PROBES_FILE", "LatencyTable", "Probe", "ProbeSet"]

PROBES_FILE = "probes.json"
"""In a folder of probes, what its ONNX files are."""


class Probe(Record, frozen=True):
    """An ONNX file with the layers of one place at one width.

    Attributes:
        layer: name of the place: the path of its first layer.
        width: channels.
        file: in the folder.
    """

    layer: str
    width: int
    file: str


class ProbeSet(Record, frozen=True):
    """What a folder of probes holds.

    Attributes:
        checkpoint: SHA-256 of the checkpoint that they are of.
        window: height and width of the image that their sizes are for, pixels.
        scheme: of the targets that they are for: operators, multiples of channels, and precision.
        network: file with the whole network.
        probes: of its places.
    """

    checkpoint: str
    window: tuple[int, int]
    scheme: Scheme
    network: str
    probes: tuple[Probe, ...]


class LatencyTable(Record, frozen=True):
    """Milliseconds of a network and of its layers at several widths, measured on one machine.

    Attributes:
        checkpoint, window: of the probes.
        target: that ran them, by name.
        engine: its library's version, and the precision.
        device: that they ran on.
        network_ms: median of the whole network.
        layers: by name of the place, (channels, median milliseconds), the most channels first.
        rounds: runs of each probe.
        load: load average of the machine, when the measurement began; None where it has none.

    Raises:
        BadInput: a place has no width, or a time is not above 0.
    """

    checkpoint: str
    window: tuple[int, int]
    target: str
    engine: str
    device: CpuDevice | GpuDevice
    network_ms: float
    layers: Mapping[str, tuple[tuple[int, float], ...]]
    rounds: int
    load: float | None = None

    def __post_init__(self) -> None:
        for name, times in self.layers.items():
            widths = [width for width, _ in times]
            if not widths or widths != sorted(set(widths), reverse=True):
                raise BadInput(f"layers.{name}: its widths do not fall")
            if min(ms for _, ms in times) <= 0:
                raise BadInput(f"layers.{name}: a time is not above 0")
        if self.network_ms <= 0:
            raise BadInput("network_ms is not above 0")

    def least(self, name: str) -> int:
        """The fewest channels of a place that were measured."""
        return self.layers[name][-1][0]

    def ms(self, name: str, width: int) -> float:
        """Milliseconds of a place: linear between measured widths, and never more at fewer channels.

        Raises:
            ValueError: a width outside those that were measured.
        """
        slowest = [ms for _, ms in self.layers[name]]
        times = [(w, min(slowest[: at + 1])) for at, (w, _) in enumerate(self.layers[name])]
        for (wide, slow), (narrow, fast) in zip(times, times[1:] or times, strict=False):
            if narrow <= width <= wide:
                share = (width - narrow) / (wide - narrow) if wide > narrow else 1.0
                return fast + share * (slow - fast)
        raise ValueError(f"{name} was measured at {[w for w, _ in times]} channels, not at {width}")


PROBES = Format("a set of probes", ProbeSet, schema=1)
"""How ``probes.json`` is written and read."""

LATENCY_TABLE = Format("a latency table", LatencyTable, schema=1)
"""How a latency table is written and read."""

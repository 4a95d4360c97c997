"""How fast pruned networks are beside the one that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.latency_table import LatencyTable
from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import BadArtifact
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.runtime.profiling.conditions import load_average
from segclip_deploy.runtime.registry import find_target
from segclip_deploy.runtime.targets.tuning import median_ms
from segclip_deploy.training.probe_networks import write_network
from segclip_deploy.training.prunable import PrunableChannels, find_prunable_channels

__all__ = ["Stopwatch", "Timing"]

_ROUNDS = 15


class Timing(Record, frozen=True):
    """A network's time beside that of its parent.

    Attributes:
        parent_ms, ms: milliseconds of one inference.
        measured: whether ``ms`` is a median of runs; else what a latency table says.
        load: load average of the machine, when it was measured; None where it has none.
    """

    parent_ms: float
    ms: float
    measured: bool
    load: float | None = None

    @property
    def ratio(self) -> float:
        """The network's time by its parent's."""
        return self.ms / self.parent_ms


class Stopwatch:
    """Exports pruned networks and times them in turns with their parent, where the table was made.

    A table of another machine cannot be checked here: then times are those that it says.

    Args:
        parent: the network that is pruned.
        bank: its text.
        spec: input size.
        table: of the parent.
        folder: that exists, for the parent's graph.

    Raises:
        BadArtifact: the table is of an unknown target, or was changed by hand.
    """

    def __init__(
        self, parent: SegCLIP, bank: TextBank, spec: InputSpec, table: LatencyTable, folder: Path
    ) -> None:
        self.bank, self.spec, self.table = bank, spec, table
        self.target = find_target(table.target, where="--latency", fix="measure the table here")
        self.measures = self.target.runs_here() and table.device == self.target.device()
        self.places = find_prunable_channels(parent, spec.height, spec.width)
        for place in self.places:
            if place.name in table.layers and table.layers[place.name][0][0] != place.count:
                raise BadArtifact(
                    f"does not say what {place.name} takes with all of its {place.count} channels",
                    where="--latency",
                    fix="measure it anew: segclip-deploy profile PROBES -o FOLDER",
                )
        self.parent = folder / "parent.onnx"
        if self.measures and not self.parent.exists():
            with replace_file(self.parent) as temporary:
                write_network(parent, bank, spec, self.target.scheme, temporary)

    def estimate(self, places: Sequence[PrunableChannels]) -> Timing:
        """What the table says of a network with these places."""
        table, full = self.table, {place.name: place.count for place in self.places}
        saved = sum(
            table.ms(place.name, full[place.name]) - table.ms(place.name, place.count)
            for place in places
            if place.name in table.layers
        )
        return Timing(
            parent_ms=table.network_ms,
            ms=round(table.network_ms - saved, 3),
            measured=False,
            load=table.load,
        )

    def time(self, model: SegCLIP) -> Timing:
        """The time of a pruned network: measured, where the table was measured on this machine."""
        if not self.measures:
            return self.estimate(find_prunable_channels(model, self.spec.height, self.spec.width))
        load = load_average()
        tile = np.random.default_rng(0).integers(0, 256, (self.spec.height, self.spec.width, 3))
        with TemporaryDirectory() as folder:
            own = Path(folder) / "pruned.onnx"
            write_network(model, self.bank, self.spec, self.target.scheme, own)
            with (
                self.target.open_unproven(self.parent) as parent,
                self.target.open_unproven(own) as pruned,
            ):
                before, after = median_ms([parent, pruned], tile.astype(np.uint8), rounds=_ROUNDS)
        return Timing(parent_ms=round(before, 3), ms=round(after, 3), measured=True, load=load)

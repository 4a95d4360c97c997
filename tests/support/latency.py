"""Latency tables that nobody measured."""

from __future__ import annotations

from pathlib import Path

from segclip_deploy.artifacts.engine_record import CpuDevice
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.latency_table import LatencyTable
from segclip_deploy.model.checkpoint import build_model, load_checkpoint
from segclip_deploy.training.prunable import find_prunable_channels


def table_of_another_machine(checkpoint: Path) -> LatencyTable:
    """At 64 × 64, so that nothing is timed here: 8 of 10 ms are layers, linear in their channels."""
    places = find_prunable_channels(build_model(load_checkpoint(checkpoint)), 64, 64)
    channels = sum(place.count for place in places)
    return LatencyTable(
        checkpoint=sha256_file(checkpoint),
        window=(64, 64),
        target="openvino",
        engine="another machine's",
        device=CpuDevice(cpu="another", machine="m", cores=1, flags=()),
        network_ms=10.0,
        layers={
            place.name: tuple((w, 8.0 * w / channels) for w in place.widths(8)) for place in places
        },
        rounds=1,
    )

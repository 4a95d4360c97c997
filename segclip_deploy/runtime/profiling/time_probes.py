"""``profile`` of a folder of probes: a latency table, on a board without torch and onnx, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from segclip_deploy.artifacts.latency_table import (
    PROBES,
    PROBES_FILE,
    LatencyTable,
    Probe,
)
from segclip_deploy.errors import BadInput
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.profiling.conditions import load_average
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.base import Target
from segclip_deploy.runtime.targets.device import find_cpu
from segclip_deploy.runtime.targets.tuning import medians_in_turns

__all__ = ["is_probes", "probe_target", "time_probes"]

_ROUNDS = 15


def is_probes(path: Path) -> bool:
    """Whether a folder is one of probes."""
    return (path / PROBES_FILE).is_file()


def probe_target(name: str | None) -> Target:
    """The target that probes are timed in: of this name, or the first that can do it here.

    Raises:
        BadInput: it takes no ONNX files as they are, or none that does is here.
        MissingDependency: it is not here.
    """
    takers = [target for target in TARGETS.values() if target.takes_onnx]
    if name is not None:
        if name not in {target.name for target in takers}:
            raise BadInput(
                f"{name} compiles engines, and probes are run as they are",
                where="--target",
                fix=f"take {' or '.join(target.name for target in takers)}",
            )
        for need in (*TARGETS[name].to_build(), *TARGETS[name].to_run()):
            need()
        return TARGETS[name]
    return next(target for target in takers if target.runs_here())


def time_probes(folder: Path, target: Target, report: Report = silent) -> LatencyTable:
    """Time every probe of a folder, the widths of a place in turns.

    Args:
        folder: as ``compact --probes`` wrote it.
        target: as of ``probe_target``.
        report: told how far it is.

    Raises:
        BadArtifact: it is no folder of probes, or the target refuses a file.
    """
    record = PROBES.read(folder / PROBES_FILE, fix="segclip-deploy compact CKPT --probes DIR")
    load = load_average()
    with target.open(folder / record.network) as network:
        engine = network.name
        (network_ms,) = medians_in_turns([_run(network)], rounds=_ROUNDS)
    known: dict[tuple[str, ...], list[float]] = {}
    layers: dict[str, tuple[tuple[int, float], ...]] = {}
    places = [(name, list(own)) for name, own in groupby(record.probes, lambda p: p.layer)]
    for done, (name, probes) in enumerate(places):
        report("timing layers", done, len(places))
        files = tuple(probe.file for probe in probes)  # layers that are alike share theirs
        if files not in known:
            known[files] = _time(folder, target, probes)
        times = zip(probes, known[files], strict=True)
        layers[name] = tuple((probe.width, round(ms, 4)) for probe, ms in times)
    return LatencyTable(
        checkpoint=record.checkpoint,
        window=record.window,
        target=target.name,
        engine=engine,
        device=find_cpu(),
        network_ms=round(network_ms, 3),
        layers=layers,
        rounds=_ROUNDS,
        load=load,
    )


def _time(folder: Path, target: Target, probes: Sequence[Probe]) -> list[float]:
    with ExitStack() as stack:
        opened = [stack.enter_context(target.open(folder / probe.file)) for probe in probes]
        return medians_in_turns([_run(backend) for backend in opened], rounds=_ROUNDS)


def _run(backend: Backend) -> Callable[[], object]:
    """One inference, of noise: zeros would let some kernels skip their work."""
    rng = np.random.default_rng(0)
    arrays = {
        spec.name: rng.random(spec.shape, dtype=np.float32)
        if spec.dtype == np.float32
        else rng.integers(0, 256, spec.shape).astype(spec.dtype)
        for spec in backend.inputs
    }
    return partial(backend.infer, arrays)

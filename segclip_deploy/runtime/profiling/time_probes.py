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
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadInput
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.profiling.conditions import load_average
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.base import Target
from segclip_deploy.runtime.targets.tuning import medians_in_turns

__all__ = ["is_probes", "probe_target", "time_probes"]

_ROUNDS = 15


def is_probes(path: Path) -> bool:
    """Whether a folder is one of probes."""
    return (path / PROBES_FILE).is_file()


def probe_target(name: str | None) -> Target:
    """The target that probes are made for: of this name, or the first here that takes ONNX files as they are.

    Where none is here, the first that does.
    """
    if name is None:
        takers = [one for one in TARGETS.values() if one.takes_onnx]
        return next((one for one in takers if one.runs_here()), takers[0])
    return TARGETS[name]


def time_probes(folder: Path, target: str | None, report: Report = silent) -> LatencyTable:
    """Time every probe of a folder, the widths of a place in turns.

    Args:
        folder: as ``compact --probes`` wrote it.
        target: name; None: the first here that they are for.
        report: told how far it is.

    Raises:
        BadArtifact: it is no folder of probes, or the target refuses a file.
        BadInput: they are for other targets.
        MissingDependency: what the target takes is not here.
    """
    record = PROBES.read(folder / PROBES_FILE, fix="segclip-deploy compact CKPT --probes DIR")
    timer = _timer(record.scheme, target, folder)
    load = load_average()
    report("timing the network", 0, 0)
    with timer.open_unproven(folder / record.network) as network:
        engine = network.name
        (network_ms,) = medians_in_turns([_run(network)], rounds=_ROUNDS)
    known: dict[tuple[str, ...], list[float]] = {}
    layers: dict[str, tuple[tuple[int, float], ...]] = {}
    places = [(name, list(own)) for name, own in groupby(record.probes, lambda p: p.layer)]
    for done, (name, probes) in enumerate(places):
        report("timing layers", done, len(places))
        files = tuple(probe.file for probe in probes)  # layers that are alike share theirs
        if files not in known:
            known[files] = _time(folder, timer, probes)
        times = zip(probes, known[files], strict=True)
        layers[name] = tuple((probe.width, round(ms, 4)) for probe, ms in times)
    return LatencyTable(
        checkpoint=record.checkpoint,
        window=record.window,
        target=timer.name,
        engine=engine,
        device=timer.device(),
        network_ms=round(network_ms, 3),
        layers=layers,
        rounds=_ROUNDS,
        load=load,
    )


def _timer(scheme: Scheme, name: str | None, folder: Path) -> Target:
    """The target that times probes of a scheme."""
    takers = [one for one in TARGETS.values() if one.scheme is scheme]
    here = (one for one in takers if one.runs_here())
    target = next(here, takers[0]) if name is None else probe_target(name)
    if target not in takers:
        raise BadInput(
            f"these probes are for {' and '.join(one.name for one in takers)}",
            where=folder,
            fix=f"write others: segclip-deploy compact CKPT --probes DIR --target {target.name}",
        )
    target.require_here()
    return target


def _time(folder: Path, target: Target, probes: Sequence[Probe]) -> list[float]:
    with ExitStack() as stack:
        opened = [
            stack.enter_context(target.open_unproven(folder / probe.file)) for probe in probes
        ]
        return medians_in_turns([_run(backend) for backend in opened], rounds=_ROUNDS)


def _run(backend: Backend) -> Callable[[], object]:
    """One inference, of noise: zeros would let some kernels skip their work."""
    rng = np.random.default_rng(0)
    arrays = {
        spec.name: rng.random(spec.shape, dtype=np.float32).astype(spec.dtype)
        if spec.dtype.kind == "f"
        else rng.integers(0, 256, spec.shape).astype(spec.dtype)
        for spec in backend.inputs
    }
    return partial(backend.infer, arrays)

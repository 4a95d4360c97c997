"""How fast a backend is here, and which settings make it fastest: measured, never guessed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.engine_record import Search
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.targets.device import usable_cores

__all__ = [
    "PROFILE_ROUNDS",
    "PROFILE_WARM_UP",
    "ROUNDS",
    "WARM_UP",
    "median_ms",
    "medians_in_turns",
    "rank_settings",
    "sum_layers",
    "thread_counts",
]

WARM_UP = 2
ROUNDS = 7

PROFILE_WARM_UP = 5
PROFILE_ROUNDS = 30
"""Of a profile by layer."""


def median_ms(
    backends: Sequence[Backend], tile: NDArray[np.uint8], *, rounds: int = ROUNDS
) -> list[float]:
    """Median milliseconds of one inference of each backend, run in turns.

    In turns, so that a clock that changes or a neighbour that wakes up hits them all.

    Args:
        tile: (H, W, 3), in every slot of the batch.
        rounds: inferences of each, after ``WARM_UP`` that do not count.
    """
    calls: list[Callable[[], object]] = []
    for backend in backends:
        image = backend.inputs[0]
        arrays = {image.name: np.repeat(tile[None], image.shape[0], axis=0)}
        calls.append(partial(backend.infer, arrays))
    return medians_in_turns(calls, rounds=rounds)


def medians_in_turns(calls: Sequence[Callable[[], object]], *, rounds: int = ROUNDS) -> list[float]:
    """Median milliseconds of each call; arguments and turns as of ``median_ms``."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(WARM_UP + rounds):
        for call, times in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            if turn >= WARM_UP:
                times.append(time.perf_counter() - started)
    return [1e3 * median(times) for times in seconds]


def rank_settings(
    open_backend: Callable[..., Backend],
    candidates: Sequence[Mapping[str, Any]],
    tile: NDArray[np.uint8],
) -> tuple[list[Mapping[str, Any]], Search]:
    """Settings of an engine, the fastest first, and what was measured.

    Args:
        open_backend: takes settings as keywords.
        candidates: settings to try; equals stay in their order.
        tile: (H, W, 3).
    """
    with ExitStack() as stack:
        backends = [stack.enter_context(open_backend(**settings)) for settings in candidates]
        times = [round(ms, 3) for ms in median_ms(backends, tile)]
    ranked = sorted(range(len(candidates)), key=times.__getitem__)
    labels = [
        " ".join(f"{k}={v}" for k, v in settings.items()) or "default" for settings in candidates
    ]
    search = Search(
        median_ms=dict(zip(labels, times, strict=True)),
        warm_up=WARM_UP,
        rounds=ROUNDS,
        cores=usable_cores(),
        load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    )
    return [candidates[index] for index in ranked], search


def thread_counts(cores: int) -> list[int]:
    """Thread counts worth trying: the powers of two below the cores, and the cores."""
    return [*(2**power for power in range(cores.bit_length()) if 2**power < cores), cores]


def sum_layers(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Milliseconds by name, those of one name added up."""
    total: dict[str, float] = {}
    for name, ms in pairs:
        total[name] = total.get(name, 0.0) + ms
    return total

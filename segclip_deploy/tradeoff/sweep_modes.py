"""A sweep in each of several power modes, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from segclip_deploy.progress import Report, saying
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.profiling.mode_switch import ModeSwitch, restored_power_mode
from segclip_deploy.runtime.targets.device import PowerMode, power_mode
from segclip_deploy.tradeoff.artifact_cache import ArtifactCache
from segclip_deploy.tradeoff.sweep import Steps, Sweep, count_steps, run_sweep
from segclip_deploy.tradeoff.sweep_grid import SweepGrid

__all__ = ["count_steps_in_modes", "grids_of_modes", "sweep_in_modes"]


def grids_of_modes(grid: SweepGrid, modes: Sequence[PowerMode]) -> tuple[SweepGrid, ...]:
    """The grid in each mode; without any in the one that is found."""
    names: list[str | None] = [mode.name for mode in modes]
    names = names or [power_mode()]
    return tuple(replace(grid, power_mode=name) for name in names)


def count_steps_in_modes(grids: Sequence[SweepGrid], cache: ArtifactCache, samples: int) -> Steps:
    """What the sweeps of all modes have to do."""
    counts = [count_steps(grid, cache, samples).to_json() for grid in grids]
    return Steps(**{name: sum(one[name] for one in counts) for name in counts[0]})


def sweep_in_modes(
    grid: SweepGrid,
    cache: ArtifactCache,
    switch: ModeSwitch | None,
    modes: Sequence[PowerMode],
    *,
    split: str,
    samples: int,
    frames: Sequence[Frame],
    report: Report,
) -> Sweep:
    """Measure every point of a grid in each mode, and put back the mode that was found.

    Every mode, and the one that was found, is entered once before the first is measured: one that needs
    a reboot, or a password, is told before hours are spent.

    Args:
        grid: what else varies.
        cache: makes the engines and keeps everything.
        switch: to the modes; None: all is measured in the mode that is found.
        modes: in the order that they are measured in.
        split, samples, frames, report: as of ``run_sweep``.

    Raises:
        BadInput: a mode cannot be entered, or the one that was found not be put back.
        SegclipError: whatever else ``run_sweep`` raises.
    """
    grids = grids_of_modes(grid, modes if switch else ())

    def measured(one: SweepGrid) -> Sweep:
        return run_sweep(one, cache, split=split, samples=samples, frames=frames, report=report)

    if switch is None:
        return measured(grids[0])
    saying(report)(f"power modes are switched by {switch.template}, and back at the end")
    sweeps = []
    with restored_power_mode(switch, saying(report)):
        for mode in (*modes, switch.found):
            switch.switch(mode)
        for mode, in_mode in zip(modes, grids, strict=True):
            switch.switch(mode)
            saying(report)(f"in power mode {mode.name}")
            sweeps.append(measured(in_mode))
    return Sweep(
        rows=tuple(row for sweep in sweeps for row in sweep.rows),
        failures=tuple(failure for sweep in sweeps for failure in sweep.failures),
        engines={name: path for sweep in sweeps for name, path in sweep.engines.items()},
        accuracies={name: one for sweep in sweeps for name, one in sweep.accuracies.items()},
    )

"""``doctor``: what this machine can do, and what to install."""

from __future__ import annotations

import click

from segclip_deploy import api
from segclip_deploy.cli.options import json_option
from segclip_deploy.cli.output import print_json, print_table

__all__ = ["doctor"]


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what is here, which engines can be built and run, and what to install for the others."""
    found = api.doctor()
    if as_json:
        print_json(found.to_json())
        return
    for name, value in _facts(found):
        click.echo(f"{name:15} {value}")
    print_table(
        "",
        ["target", "engine", "build", "run", "devices"],
        [
            [
                name,
                can.engine,
                "yes" if can.build else "NO",
                "yes" if can.run else "NO",
                ", ".join(can.devices),
            ]
            for name, can in found.targets.items()
        ],
    )
    for name, can in found.targets.items():
        for obstacle in can.obstacles:
            click.echo(f"{name}: {obstacle.what}; {obstacle.fix}")


def _facts(found: api.Machine) -> list[tuple[str, str]]:
    system, cpu, gpu, board = found.system, found.system.cpu, found.gpu, found.board
    facts = [
        ("segclip-deploy", f"{found.version}, Python {system.python}"),
        ("platform", system.platform),
        ("CPU", f"{cpu.cpu}, {cpu.cores} cores, {' '.join(cpu.flags)}"),
        ("memory", f"{_gb(system.memory_free)} free of {_gb(system.memory)}"),
        ("disk here", f"{_gb(system.disk_free)} free"),
        (
            "GPU",
            f"{gpu.gpu}, compute capability {gpu.compute_capability}, {_gb(gpu.memory)}, "
            f"driver {gpu.driver or 'of unknown version'}, CUDA {gpu.cuda}"
            if gpu
            else "none",
        ),
    ]
    if board:
        jetson = board.jetson
        facts += [
            ("Jetson", f"{jetson.board}, L4T {jetson.l4t}"),
            ("JetPack", jetson.jetpack or "not told by the package nvidia-jetpack"),
            ("power mode", " ".join((board.power_mode or "not told by nvpmodel").split())),
            ("clocks", board.jetson_clocks or "not told by jetson_clocks (needs root)"),
        ]
    facts += [(name, number or "not installed") for name, number in found.packages.items()]
    if found.onnxruntime_providers:
        facts.append(("  providers", ", ".join(found.onnxruntime_providers)))
    return facts


def _gb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"

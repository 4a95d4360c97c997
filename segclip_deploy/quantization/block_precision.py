"""Which precision each block of a graph can have: uniform plans, and whether a plan fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.artifacts.scheme import Precision, Scheme
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact, command
from segclip_deploy.quantization.placement import place

__all__ = ["check_plan", "uniform_plan"]


def uniform_plan(bundle: Bundle, graph: Any, scheme: Scheme, precision: Precision) -> PrecisionPlan:
    """One precision for everything that can have it.

    What surrounds the network, block ``graph``, stays FP32: pixels are normalised, and labels
    decided, without rounding.

    Args:
        graph: the bundle's ``onnx_ir.Graph``.

    Raises:
        BadInput: a precision that the scheme does not have.
    """
    if precision not in scheme.rules.precisions:
        raise BadInput(
            f"{scheme.value.upper()} engines do not compute in {precision.upper()}",
            where=f"--precision {precision} --scheme {scheme.value}",
            fix="use --precision int8; where the processor has BF16, OpenVINO takes it at load",
        )
    last = {block_of(node.name): place for place, node in enumerate(graph)}
    names = sorted(last, key=lambda name: last[name])  # by when a block is done: coarse to fine
    high = scheme.rules.high if precision == "int8" else precision
    able = {block_of(name) for name in place(graph, scheme, lambda _: True).nodes}
    blocks: dict[str, Precision] = {
        name: precision if precision == "int8" and name in able else high for name in names
    }
    blocks["graph"] = "fp32"
    return PrecisionPlan(scheme, bundle.sha256, blocks)


def check_plan(
    plan: PrecisionPlan, bundle: Bundle, graph: Any, *, where: Path = Path("PLAN")
) -> None:
    """Accept a plan that was made for this bundle and names just its blocks.

    Raises:
        BadArtifact: a block is missing, none of the model's, or INT8 with nothing that can be.
        StaleArtifact: it was made for another bundle.
    """
    if plan.bundle != bundle.sha256:
        raise StaleArtifact(
            f"made for another bundle than {bundle.path}",
            where=where,
            fix=command(
                "segclip-deploy",
                "plan",
                bundle.path,
                "--table",
                "TABLE",
                "--eval",
                "DIR",
                "--scheme",
                plan.scheme.value,
                "-o",
                where,
            ),
        )
    wanted = list(dict.fromkeys(block_of(node.name) for node in graph))
    for name in sorted({*wanted} ^ {*plan.blocks}):
        what = "is missing" if name in wanted else "is no block of this model"
        raise BadArtifact(f"{name} {what}", where=where, fix=f"its blocks: {', '.join(wanted)}")
    able = {block_of(name) for name in place(graph, plan.scheme, lambda _: True).nodes}
    for name, precision in plan.blocks.items():
        if precision == "int8" and name not in able:
            raise BadArtifact(
                f"{name} has no product with trained weights, nothing in it can be int8",
                where=where,
                fix=f"write {name}: {plan.scheme.rules.high}",
            )

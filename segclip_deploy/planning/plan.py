"""The PrecisionPlan: which block of a model computes in what, and why; for people to edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from segclip_deploy.artifacts.bundle import RECORD_FILE, Bundle, check_schema
from segclip_deploy.artifacts.files import UNREADABLE, replace_file, sha256_file
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact
from segclip_deploy.quantization.placement import DIALECTS, Dialect, place
from segclip_deploy.runtime.blocks import block_of

__all__ = ["Precision", "PrecisionPlan", "check_plan", "load_plan", "save_plan", "uniform_plan"]

PLAN_SCHEMA = 1
Precision = Literal["int8", "fp16", "fp32"]
HIGH: Mapping[Dialect, Precision] = {"tensorrt": "fp16", "cpu": "fp32"}
"""What runs beside INT8. A CPU has no FP16; where it has BF16, OpenVINO takes that at load."""


@dataclass(frozen=True)
class PrecisionPlan:
    """Precision by block.

    Attributes:
        dialect: whom it is for.
        bundle: SHA-256 of the record of the FP32 bundle.
        blocks: every block of the model, in the graph's order. In an INT8 block the trained
            products are INT8, the rest is what runs beside it.
        evidence: what was measured to choose it; free of form, for people.
    """

    dialect: Dialect
    bundle: str
    blocks: Mapping[str, Precision]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def int8(self, node: str) -> bool:
        """Whether a node's block is INT8."""
        return self.blocks[block_of(node)] == "int8"

    def fp16(self, node: str) -> bool:
        """Whether what is not INT8 of a node's block is FP16."""
        return self.dialect == "tensorrt" and self.blocks[block_of(node)] != "fp32"


def uniform_plan(
    bundle: Bundle, graph: Any, dialect: Dialect, precision: Precision
) -> PrecisionPlan:
    """One precision for everything that can have it.

    What surrounds the network, block ``graph``, stays FP32: pixels are normalised, and labels
    decided, without rounding.

    Args:
        graph: the bundle's ``onnx_ir.Graph``.

    Raises:
        BadInput: FP16 for a CPU.
    """
    if dialect == "cpu" and precision == "fp16":
        raise BadInput(
            "CPU engines do not compute in FP16",
            where="--precision fp16 --dialect cpu",
            fix="use --precision int8; where the processor has BF16, OpenVINO takes it at load",
        )
    last = {block_of(node.name): place for place, node in enumerate(graph)}
    names = sorted(last, key=lambda name: last[name])  # by when a block is done: coarse to fine
    high = HIGH[dialect] if precision == "int8" else precision
    able = {block_of(name) for name in place(graph, dialect, lambda _: True).nodes}
    blocks: dict[str, Precision] = {
        name: precision if precision == "int8" and name in able else high for name in names
    }
    blocks["graph"] = "fp32"
    return PrecisionPlan(dialect, sha256_file(bundle.path / RECORD_FILE), blocks)


def save_plan(path: Path, plan: PrecisionPlan) -> None:
    """Write as YAML, atomically."""
    data = {
        "schema": PLAN_SCHEMA,
        "dialect": plan.dialect,
        "bundle": plan.bundle,
        "blocks": dict(plan.blocks),
        "evidence": dict(plan.evidence),
    }
    with replace_file(path) as temporary:
        temporary.write_text(
            "# Precision by block: int8, fp16 or fp32. Edit a line and feed it back with\n"
            f"# segclip-deploy quantize BUNDLE --plan {path.name} --table TABLE -o OUT\n"
            + yaml.safe_dump(data, sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )


def load_plan(path: Path) -> PrecisionPlan:
    """Read a plan.

    Raises:
        BadArtifact: not a plan, of a newer schema, or one with an unknown dialect or precision.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_schema({"schema": data.get("schema", 1)}, PLAN_SCHEMA, where=path)
        plan = PrecisionPlan(
            data["dialect"],
            data["bundle"],
            {str(name): precision for name, precision in data["blocks"].items()},
            data.get("evidence") or {},
        )
        if plan.dialect not in DIALECTS:
            raise ValueError(f"dialect {plan.dialect!r} is not {' or '.join(DIALECTS)}")
    except (OSError, yaml.YAMLError, *UNREADABLE) as error:
        raise BadArtifact(f"not a precision plan ({error!r})", where=path) from error
    known = [p for p in get_args(Precision) if plan.dialect != "cpu" or p != "fp16"]
    for block, precision in plan.blocks.items():
        if precision not in known:
            raise BadArtifact(f"{block} is {precision!r}, not {' or '.join(known)}", where=path)
    return plan


def check_plan(
    plan: PrecisionPlan, bundle: Bundle, graph: Any, *, where: Path = Path("PLAN")
) -> None:
    """Accept a plan that was made for this bundle and names just its blocks.

    Raises:
        BadArtifact: a block is missing, none of the model's, or INT8 with nothing that can be.
        StaleArtifact: it was made for another bundle.
    """
    if plan.bundle != sha256_file(bundle.path / RECORD_FILE):
        raise StaleArtifact(
            f"made for another bundle than {bundle.path}",
            where=where,
            fix=f"segclip-deploy plan {bundle.path} --table TABLE --eval DIR -o {where}",
        )
    wanted = list(dict.fromkeys(block_of(node.name) for node in graph))
    for name in sorted({*wanted} ^ {*plan.blocks}):
        what = "is missing" if name in wanted else "is no block of this model"
        raise BadArtifact(f"{name} {what}", where=where, fix=f"its blocks: {', '.join(wanted)}")
    able = {block_of(name) for name in place(graph, plan.dialect, lambda _: True).nodes}
    for name, precision in plan.blocks.items():
        if precision == "int8" and name not in able:
            raise BadArtifact(
                f"{name} has no product with trained weights, nothing in it can be int8",
                where=where,
                fix=f"write {name}: {HIGH[plan.dialect]}",
            )


def lowest(plan: PrecisionPlan) -> Precision:
    """The lowest precision in a plan."""
    return cast("Precision", next(p for p in get_args(Precision) if p in plan.blocks.values()))

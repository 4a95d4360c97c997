"""The PrecisionPlan: which block of a model computes in what, and why; for people to edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segclip_deploy.artifacts.bundle import check_schema
from segclip_deploy.artifacts.files import UNREADABLE, replace_file
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.scheme import PRECISIONS, Precision, Scheme
from segclip_deploy.errors import BadArtifact

__all__ = ["PrecisionPlan", "load_plan", "save_plan"]

PLAN_SCHEMA = 1


@dataclass(frozen=True)
class PrecisionPlan:
    """Precision by block.

    Attributes:
        scheme: how it is written, and so whom it is for.
        bundle: SHA-256 of the record of the FP32 bundle.
        blocks: every block of the model, in the graph's order. In an INT8 block the trained
            products are INT8, the rest is what runs beside it.
        evidence: what was measured to choose it; free of form, for people.
    """

    scheme: Scheme
    bundle: str
    blocks: Mapping[str, Precision]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def int8(self, node: str) -> bool:
        """Whether a node's block is INT8."""
        return self.blocks[block_of(node)] == "int8"

    def fp16(self, node: str) -> bool:
        """Whether what is not INT8 of a node's block is FP16."""
        return self.scheme.rules.high == "fp16" and self.blocks[block_of(node)] != "fp32"

    @property
    def int8_blocks(self) -> tuple[str, ...]:
        """The blocks that are INT8, in the graph's order."""
        return tuple(block for block, precision in self.blocks.items() if precision == "int8")

    @property
    def lowest(self) -> Precision:
        """The lowest precision of a block."""
        return min(self.blocks.values(), key=PRECISIONS.index)


def save_plan(path: Path, plan: PrecisionPlan) -> None:
    """Write as YAML, atomically."""
    data = {
        "schema": PLAN_SCHEMA,
        "scheme": plan.scheme.value,
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
        BadArtifact: not a plan, of a newer schema, or one with an unknown scheme or precision.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_schema({"schema": data.get("schema", 1)}, PLAN_SCHEMA, where=path)
        names = [scheme.value for scheme in Scheme]
        if data["scheme"] not in names:
            raise ValueError(f"scheme {data['scheme']!r} is not {' or '.join(names)}")
        plan = PrecisionPlan(
            Scheme(data["scheme"]),
            data["bundle"],
            {str(name): precision for name, precision in data["blocks"].items()},
            data.get("evidence") or {},
        )
    except (OSError, yaml.YAMLError, *UNREADABLE) as error:
        raise BadArtifact(f"not a precision plan ({error!r})", where=path) from error
    known = plan.scheme.rules.precisions
    for block, precision in plan.blocks.items():
        if precision not in known:
            raise BadArtifact(f"{block} is {precision!r}, not {' or '.join(known)}", where=path)
    return plan

"""The PrecisionPlan: which block of a model computes in what, and why; for people to edit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.artifacts.scheme import PRECISIONS, Precision, Scheme
from segclip_deploy.errors import BadArtifact, command

__all__ = [
    "PLAN",
    "AccuracyLimits",
    "Drop",
    "Evidence",
    "FullEvaluation",
    "PlanLatency",
    "PrecisionPlan",
    "SearchStep",
    "load_plan",
    "save_plan",
]


class Drop(Record, frozen=True):
    """How much mIoU is lost; in shares of 1, negative where it is gained.

    Attributes:
        value: on all images.
        low, high: 95 % bounds, from resampling the images.
    """

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the bounds leave zero out: more images would show the same sign."""
        return self.low > 0 or self.high < 0

    @property
    def delta(self) -> str:
        """ΔmIoU, this − FP32, in points: ``−0.12``."""
        return _signed_points(-self.value)

    @property
    def delta_interval(self) -> str:
        """95 % bounds of ΔmIoU, in points: ``[−0.30, +0.05]``."""
        return f"[{_signed_points(-self.high)}, {_signed_points(-self.low)}]"


class FullEvaluation(Record, frozen=True):
    """What a mix of precisions scores on a whole split, against FP32 on the same images.

    Attributes:
        drop: of mIoU.
        miou: of this mix.
        iou, boundary_iou: by class; None where a class is absent.
    """

    drop: Drop
    miou: float
    iou: Mapping[str, float | None]
    boundary_iou: Mapping[str, float | None]


class AccuracyLimits(Record, frozen=True):
    """What a plan must keep to.

    Attributes:
        max_miou_drop: shares of 1, on the evaluation split.
        min_class_iou: by class name.
    """

    max_miou_drop: float
    min_class_iou: Mapping[str, float] = {}

    def broken(self, evaluation: FullEvaluation) -> str | None:
        """Which limit an evaluation breaks, in words; None where it keeps all."""
        if evaluation.drop.value > self.max_miou_drop:
            return (
                f"mIoU drops by {100 * evaluation.drop.value:.2f} points, "
                f"{100 * self.max_miou_drop:.2f} were allowed"
            )
        for name, least in self.min_class_iou.items():
            iou = evaluation.iou[name]
            if iou is None or iou < least:
                return f"IoU of {name} is {iou}, at least {least} was asked for"
        return None


class SearchStep(Record, frozen=True):
    """One mix that the search has measured.

    Attributes:
        int8_blocks: how many blocks were INT8.
        excluded: the block that was taken out of INT8 for it; None at first.
        miou_drop_points: points of mIoU.
    """

    int8_blocks: int
    excluded: str | None
    miou_drop_points: float


class PlanLatency(Record, frozen=True):
    """How fast a plan is where it was made.

    Attributes:
        engine: that ran it.
        beside: what is computed where the model is not INT8.
        fp32_ms, plan_ms: median milliseconds of a batch.
        rounds, warm_up: inferences that counted, and that did not.
    """

    engine: str
    beside: str
    fp32_ms: float
    plan_ms: float
    rounds: int
    warm_up: int

    @property
    def speed_up(self) -> float:
        """How many times faster the plan is."""
        return self.fp32_ms / self.plan_ms


class Evidence(Record, frozen=True):
    """What a plan was chosen by.

    Attributes:
        split, images: of the dataset that it was evaluated on.
        limits: it was made to keep to.
        evaluation: of the plan.
        excluded: blocks taken out of INT8, and why.
        steps: of the search.
        latency: None where none was measured.
    """

    split: str
    images: int
    limits: AccuracyLimits
    evaluation: FullEvaluation
    excluded: Mapping[str, str]
    steps: tuple[SearchStep, ...]
    latency: PlanLatency | None = None


class PrecisionPlan(Record, frozen=True):
    """Precision by block.

    Attributes:
        scheme: how it is written, and so whom it is for.
        bundle: SHA-256 of the record of the FP32 bundle.
        blocks: every block of the model, in the graph's order. In an INT8 block the operators
            with trained weights are INT8, the rest is what runs beside it.
        evidence: what was measured to choose it; None for a plan that nobody measured.
    """

    scheme: Scheme
    bundle: str
    blocks: Mapping[str, Precision]
    evidence: Evidence | None = None

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


_RENAMED = {"verdict": "evaluation", "spared": "excluded"}


def _of_schema_2(data: dict[str, Any]) -> dict[str, Any]:
    """Give the evidence the field's words."""
    if not data.get("evidence"):
        return data
    evidence = _renamed(data["evidence"])
    steps = [_renamed(step) for step in evidence["steps"]]
    return {**data, "evidence": {**evidence, "steps": steps}}


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(name, name): value for name, value in fields.items()}


PLAN = Format("a precision plan", PrecisionPlan, schema=3, migrations={2: _of_schema_2})


def save_plan(path: Path, plan: PrecisionPlan) -> None:
    """Write as YAML, atomically."""
    with replace_file(path) as temporary:
        temporary.write_text(
            "# Precision by block: int8, fp16 or fp32. Edit a line and feed it back with\n"
            f"# segclip-deploy quantize BUNDLE --plan {path.name} --table TABLE -o OUT\n"
            + yaml.safe_dump(PLAN.dump(plan), sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )


def load_plan(path: Path) -> PrecisionPlan:
    """Read a plan.

    Raises:
        BadArtifact: not a plan, of another schema, or one with an unknown scheme or precision.
    """
    remedy = command(
        "segclip-deploy",
        *("plan", "BUNDLE", "--table", "TABLE", "--eval", "DATASET"),
        *("--scheme", "SCHEME", "-o", path),
    )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadArtifact(f"not a precision plan ({error!r})", where=path, fix=remedy) from error
    if not isinstance(data, dict):
        raise BadArtifact("not a precision plan", where=path, fix=remedy)
    _check_words(data, path)
    return PLAN.parse(data, where=path, fix=remedy)


def _check_words(data: Mapping[str, Any], path: Path) -> None:
    """What people edit is refused with the words that would do."""
    names = [scheme.value for scheme in Scheme]
    if data.get("schema") not in (PLAN.schema, *PLAN.migrations) or "scheme" not in data:
        return
    if data["scheme"] not in names:
        raise BadArtifact(f"scheme {data['scheme']!r} is not {' or '.join(names)}", where=path)
    known = Scheme(data["scheme"]).rules.precisions
    blocks = data.get("blocks")
    for block, precision in blocks.items() if isinstance(blocks, dict) else ():
        if not isinstance(block, str):
            raise BadArtifact(f"{block!r} is no block of any model", where=path)
        if precision not in known:
            raise BadArtifact(f"{block} is {precision!r}, not {' or '.join(known)}", where=path)


def _signed_points(share: float) -> str:
    return f"{round(100 * share, 2) + 0.0:+.2f}".replace("-", "−")  # + 0.0: zero is no −0.00

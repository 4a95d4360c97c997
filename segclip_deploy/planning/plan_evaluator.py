"""PlanEvaluator: what a set of INT8 blocks does to accuracy, measured once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.golden import Golden
from segclip_deploy.artifacts.plan import FullEvaluation, PrecisionPlan
from segclip_deploy.artifacts.records import Record, replace
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.evaluation.accuracy import Accuracy, miou_drop, score
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.export.onnx_model import load_fp32, save_model
from segclip_deploy.export.parity import answers_of, sqnr
from segclip_deploy.planning.measurements import Measurements
from segclip_deploy.quantization.placement import place
from segclip_deploy.quantization.qdq import write_qdq
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend

__all__ = ["PlanEvaluator", "ProxyScore"]

T = TypeVar("T")


class ProxyScore(Record, frozen=True):
    """A cheap proxy of accuracy: noise and labels on a few tiles, against FP32.

    Attributes:
        sqnr_db: signal to quantization noise of the logits.
        agreement: share of pixels with equal labels.
    """

    sqnr_db: float
    agreement: float


class PlanEvaluator:
    """Measures sets of INT8 blocks, the rest in FP32: FP16 is measured when it is written.

    Where a scheme's engines execute Q/DQ as ONNX defines it, as TensorRT does, this is the reference
    run; else it is ONNX Runtime with its optimizations on.

    Args:
        bundle: in FP32.
        table: measured in it.
        plan: names the scheme and the blocks that can be INT8.
        dataset: that ``split`` is of.
        split: what ``evaluate`` scores; never the one that reports results.
        tiles: (N, H, W, 3), for ``proxy``.
        known: what was measured before.
    """

    def __init__(
        self,
        bundle: Bundle,
        table: CalibrationTable,
        plan: PrecisionPlan,
        dataset: Dataset,
        split: str,
        tiles: NDArray[np.uint8],
        known: Measurements,
    ) -> None:
        self.bundle, self.table, self.plan = bundle, table, plan
        self.dataset, self.split, self.tiles = dataset, split, tiles
        self._known = known
        self._seen = hashlib.sha256(tiles.tobytes()).hexdigest()
        self._fp32: Accuracy | None = None
        self._answers: Golden | None = None

    def proxy(self, int8: Iterable[str]) -> ProxyScore:
        """Compare logits and labels on the tiles."""
        blocks = sorted(int8)

        def measure() -> ProxyScore:
            self._answers = self._answers or self._answer([])
            got = self._answer(blocks)
            agreement = float((got.labels == self._answers.labels).mean())
            return ProxyScore(sqnr_db=sqnr(self._answers.logits, got.logits), agreement=agreement)

        return self._known.get(ProxyScore, measure, self._seen, blocks)

    def evaluate(self, int8: Iterable[str]) -> FullEvaluation:
        """Score the split."""
        blocks = sorted(int8)

        def measure() -> FullEvaluation:
            self._fp32 = self._fp32 or self._score([])
            accuracy = self._score(blocks) if blocks else self._fp32
            scores = accuracy.to_json()
            return FullEvaluation(
                drop=miou_drop(self._fp32, accuracy),
                miou=scores["miou"],
                iou=scores["iou"],
                boundary_iou=scores["boundary_iou"],
            )

        data = self.dataset
        images = [f"{data.root.resolve()}{data.mask_suffix}", *data.names(self.split)]
        return self._known.get(FullEvaluation, measure, images, blocks)

    def _answer(self, blocks: list[str]) -> Golden:
        return self._with(blocks, lambda backend: answers_of(backend, self.tiles))

    def _score(self, blocks: list[str]) -> Accuracy:
        def measure(backend: Backend) -> Accuracy:
            segmenter = Segmenter(backend, self.bundle.input, self.bundle.vocabulary)
            return score(segmenter, self.dataset.samples(self.split))

        return self._with(blocks, measure)

    def _with(self, blocks: list[str], use: Callable[[Backend], T]) -> T:
        """What ``use`` makes of the model with these blocks in INT8."""
        model = load_fp32(self.bundle)
        mixed = replace(
            self.plan,
            blocks={name: "int8" if name in blocks else "fp32" for name in self.plan.blocks},
        )
        placement = place(model.graph, mixed.scheme, mixed.int8)
        measured = self.table.of(self.bundle.lowering)
        write_qdq(model.graph, placement, measured.ranges, mixed.scheme, measured.means)
        reference = mixed.scheme.rules.reference
        with TemporaryDirectory() as folder:
            path = Path(folder) / self.bundle.model_path.name
            save_model(model, path)
            batches = self.bundle.input.batches
            with OnnxRuntimeBackend(path, batches=batches, reference=reference) as backend:
                return use(backend)

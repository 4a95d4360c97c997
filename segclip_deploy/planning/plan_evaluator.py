"""The judge: what a set of INT8 blocks does to accuracy, measured once and remembered on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.files import read_json, write_json
from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.artifacts.records import Record
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.evaluation.accuracy import Accuracy, Drop, miou_drop, score
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.export.onnx_model import expose, load_model, save_model
from segclip_deploy.export.parity import answers_of
from segclip_deploy.quantization.placement import place
from segclip_deploy.quantization.qdq import write_qdq
from segclip_deploy.quantization.quantize import sqnr
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.targets.device import find_cpu
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend

__all__ = ["Glance", "Judge", "Verdict"]


class Glance(Record, frozen=True):
    """The cheap look: a few tiles, against FP32.

    Attributes:
        sqnr_db: signal to quantization noise of the logits.
        agreement: share of pixels with equal labels.
    """

    sqnr_db: float
    agreement: float


class Verdict(Record, frozen=True):
    """The exact one: a whole split, against FP32 on the same images.

    Attributes:
        drop: of mIoU, with its 95 % bounds.
        miou: of this set.
        iou, boundary_iou: by class; None where a class is absent.
    """

    drop: Drop
    miou: float
    iou: Mapping[str, float | None]
    boundary_iou: Mapping[str, float | None]


class Judge:
    """Measures sets of INT8 blocks, the rest in FP32: FP16 is judged when it is written.

    For ``tensorrt`` Q/DQ is executed literally, as TensorRT defines it; for ``cpu`` by the
    kernels that fly.

    Args:
        bundle: in FP32.
        table: measured in it.
        plan: names the scheme and the blocks that can be INT8.
        dataset: whose ``split`` judges.
        split: name of a split; never the one that reports results.
        tiles: (N, H, W, 3) for the cheap look.
        state: JSON file with what was measured; made where there is none.
    """

    def __init__(
        self,
        bundle: Bundle,
        table: CalibrationTable,
        plan: PrecisionPlan,
        dataset: Dataset,
        split: str,
        tiles: NDArray[np.uint8],
        state: Path,
    ) -> None:
        self.bundle, self.table, self.plan = bundle, table, plan
        self.dataset, self.split, self.tiles = dataset, split, tiles
        self._state = state
        self._known = read_json(state) if state.is_file() else {}
        # What was measured under other rules of placing Q/DQ says nothing of these.
        placed = place(load_model(bundle.model_path).graph, plan.scheme, lambda _: True)
        self._rules = hashlib.sha256(repr(placed).encode()).hexdigest()
        self._fp32: Accuracy | None = None
        self._answers: Any = None

    def glance(self, int8: Iterable[str]) -> Glance:
        """Compare logits and labels on the tiles."""
        blocks = sorted(int8)
        key = self._key("glance", blocks)
        if key not in self._known:
            self._answers = self._answers or self._answer([])
            got = self._answer(blocks)
            agreement = float((got.labels == self._answers.labels).mean())
            glance = Glance(sqnr(self._answers.logits, got.logits), agreement)
            self._remember(key, glance.to_json())
        return Glance(**self._known[key])

    def verdict(self, int8: Iterable[str]) -> Verdict:
        """Score the split."""
        blocks = sorted(int8)
        key = self._key("verdict", blocks)
        if key not in self._known:
            self._fp32 = self._fp32 or self._score([])
            accuracy = self._score(blocks) if blocks else self._fp32
            scores = accuracy.to_json()
            drop = miou_drop(self._fp32, accuracy)
            verdict = Verdict(drop, scores["miou"], scores["iou"], scores["boundary_iou"])
            self._remember(key, verdict.to_json())
        found = self._known[key]
        return Verdict(**found | {"drop": Drop(**found["drop"])})

    def times(
        self, target: str, measure: Callable[[], tuple[Mapping[str, float], Mapping[str, float]]]
    ) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """What ``measure`` gives, or gave on this processor: a plan must not change with the noise."""
        key = self._key(f"times in {target} on {find_cpu()}", [])
        if key not in self._known:
            self._remember(key, dict(zip(("high", "int8"), measure(), strict=True)))
        return self._known[key]["high"], self._known[key]["int8"]

    def _key(self, kind: str, blocks: list[str]) -> str:
        tiles = (
            hashlib.sha256(self.tiles.tobytes()).hexdigest() if kind == "glance" else self._images()
        )
        table = self.table.to_json()["digest"]
        parts = [kind, table, self.plan.scheme.value, self._rules, tiles, blocks]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _images(self) -> list[str]:
        data = self.dataset
        return [f"{data.root.resolve()}{data.mask_suffix}", *data.names(self.split)]

    def _remember(self, key: str, value: Mapping[str, Any]) -> None:
        self._known[key] = value
        write_json(self._state, self._known)

    def _open(self, blocks: list[str], folder: str) -> OnnxRuntimeBackend:
        model = load_model(self.bundle.model_path)
        expose(model, "logits")
        mixed = replace(
            self.plan,
            blocks={name: "int8" if name in blocks else "fp32" for name in self.plan.blocks},
        )
        placement = place(model.graph, mixed.scheme, mixed.int8)
        write_qdq(model.graph, placement, self.table.ranges, mixed.scheme, self.table.means)
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        return OnnxRuntimeBackend(
            path, batches=self.bundle.input.batches, literal=mixed.scheme.rules.literal
        )

    def _answer(self, blocks: list[str]) -> Any:
        with TemporaryDirectory() as folder, self._open(blocks, folder) as backend:
            return answers_of(backend, self.tiles)

    def _score(self, blocks: list[str]) -> Accuracy:
        with TemporaryDirectory() as folder:
            backend = self._open(blocks, folder)
            with Segmenter(backend, self.bundle.input, self.bundle.vocabulary) as segmenter:
                return score(segmenter, self.dataset.samples(self.split))

"""``evaluate``: how good an engine's labels are on a split of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle_record import TemperatureFit
from segclip_deploy.artifacts.checkpoint_record import Scores
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.accuracy import score
from segclip_deploy.evaluation.choices import ProtocolName
from segclip_deploy.evaluation.confidence import Confidence, ConfidenceMeter
from segclip_deploy.evaluation.dataset import Dataset, Sample
from segclip_deploy.evaluation.protocols import Protocol, choose_protocol
from segclip_deploy.progress import Report, saying, silent
from segclip_deploy.runtime.inference.segmenter import Segmenter

__all__ = ["Evaluation", "evaluate"]

_MENDED = "segclip-deploy export CKPT -o BUNDLE --logits, and build-engine again"


@dataclass(frozen=True)
class Evaluation:
    """Scores of an engine.

    Attributes:
        engine: the library that ran, its version and device.
        dataset: the folder.
        split: the part of it that was evaluated.
        vocabulary: the title of its classes.
        protocol: how images were labelled and scored.
        scores: IoU and boundary IoU by class, shares of 1; None of a class that does not occur.
        confidence: what its probabilities are worth; None where it outputs no logits.
    """

    engine: str
    dataset: Path
    split: str
    vocabulary: str
    protocol: Protocol
    scores: Scores
    confidence: Confidence | None = None

    @property
    def miou(self) -> float | None:
        """Mean IoU over the classes that occur, 0 to 1."""
        return self.scores.miou

    def to_json(self) -> dict[str, Any]:
        """As JSON; the scores stand beside the others."""
        said = {"engine": self.engine, "dataset": str(self.dataset), "split": self.split}
        confidence = self.confidence.to_json() if self.confidence else None
        scores = {"protocol": self.protocol.to_json(), **self.scores.to_json()}
        return {**said, **scores, "confidence": confidence}


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    split: str,
    *,
    protocol: ProtocolName = "joined",
    fit: TemperatureFit | None = None,
    with_confidence: bool = False,
    report: Report = silent,
) -> Evaluation:
    """Score a segmenter on a split; and its confidence, where it outputs logits.

    Args:
        segmenter: an engine.
        dataset: images and ground truth.
        split: of it.
        protocol: how images are labelled and scored.
        fit: of the temperature that the engine's logits were divided by; None: they were not.
        with_confidence: refuse an engine without logits; else it is said that nothing is measured.
        report: told how far it is.

    Raises:
        BadInput: no such split, an image or mask that cannot be used, or no logits.
    """
    names = dataset.names(split)
    if not segmenter.blends:
        what = f"{segmenter.backend.name} outputs no logits"
        if with_confidence:
            raise BadInput(what, where="--reliability", fix=_MENDED)
        saying(report)(f"{what}, so its confidence is not measured; {_MENDED}")
    elif fit and (seen := {*names} & {*fit.images}):
        saying(report)(
            f"the temperature was fitted on images of {len(seen)} of these {len(names)} names: "
            "confidence looks better on them than it is"
        )

    def samples() -> Iterator[Sample]:
        for done, sample in enumerate(dataset.samples(split)):
            report("evaluating images", done, len(names))
            yield sample
        report("evaluating images", len(names), len(names))

    chosen = choose_protocol(protocol, dataset.vocabulary.name)
    meter = ConfidenceMeter(fit.value if fit else None) if segmenter.blends else None
    scores = score(segmenter, samples(), chosen, confidence=meter).scores()
    return Evaluation(
        segmenter.backend.name,
        dataset.root,
        split,
        segmenter.vocabulary.title,
        chosen,
        scores,
        meter.found if meter else None,
    )

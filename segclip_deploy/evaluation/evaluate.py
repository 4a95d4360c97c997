"""``evaluate``: how good an engine's labels are on a split of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.checkpoint_record import Scores
from segclip_deploy.evaluation.accuracy import score
from segclip_deploy.evaluation.choices import ProtocolName
from segclip_deploy.evaluation.dataset import Dataset, Sample
from segclip_deploy.evaluation.protocols import Protocol, choose_protocol
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.segmenter import Segmenter

__all__ = ["Evaluation", "evaluate"]


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
    """

    engine: str
    dataset: Path
    split: str
    vocabulary: str
    protocol: Protocol
    scores: Scores

    @property
    def miou(self) -> float | None:
        """Mean IoU over the classes that occur, 0 to 1."""
        return self.scores.miou

    def to_json(self) -> dict[str, Any]:
        """As JSON; the scores stand beside the others."""
        said = {"engine": self.engine, "dataset": str(self.dataset), "split": self.split}
        return {**said, "protocol": self.protocol.to_json(), **self.scores.to_json()}


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    split: str,
    *,
    protocol: ProtocolName = "joined",
    report: Report = silent,
) -> Evaluation:
    """Score a segmenter on a split.

    Raises:
        BadInput: no such split, or an image or mask that cannot be used.
    """
    names = dataset.names(split)

    def samples() -> Iterator[Sample]:
        for done, sample in enumerate(dataset.samples(split)):
            report("evaluating images", done, len(names))
            yield sample
        report("evaluating images", len(names), len(names))

    chosen = choose_protocol(protocol, dataset.vocabulary.name)
    scores = score(segmenter, samples(), chosen).scores()
    vocabulary = segmenter.vocabulary.title
    return Evaluation(segmenter.backend.name, dataset.root, split, vocabulary, chosen, scores)

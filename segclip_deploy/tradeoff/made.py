"""What a sweep is given that is made already: quantized bundles and engines, beside FP32 bundles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.bundle_record import BundleRecord
from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.artifacts.scheme import Precision, Scheme
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.registry import TARGETS

__all__ = ["Given", "MadeArtefact", "PrecisionChoice", "sort_given"]

PrecisionChoice = Literal["fp32", "fp16", "int8", "planned"]


@dataclass(frozen=True)
class MadeArtefact:
    """A quantized bundle, or an engine, that is measured as it is.

    Attributes:
        path: of it.
        parent: the FP32 bundle or engine that it is compared with; its own path, if it is that engine.
        precision: the lowest that is written into it.
        scheme: of its precision; None of FP32.
        target: that an engine is for; None of a bundle.
    """

    path: Path
    parent: Path
    precision: Precision
    scheme: Scheme | None
    target: str | None

    def targets(self, wanted: Sequence[str]) -> list[str]:
        """Which of the targets it is measured on."""
        if self.target is not None:
            return [self.target]
        return [name for name in wanted if TARGETS[name].scheme is self.scheme]


@dataclass(frozen=True)
class Given:
    """The arguments of a sweep, sorted.

    Attributes:
        bundles: in FP32.
        made: the rest.
        vocabulary: of all of them.
    """

    bundles: tuple[Path, ...]
    made: tuple[MadeArtefact, ...]
    vocabulary: Vocabulary


@dataclass(frozen=True)
class _Artefact:
    path: Path
    record: BundleRecord
    sha256: str
    target: str | None

    @property
    def is_fp32(self) -> bool:
        return self.record.precision == "fp32"


def sort_given(paths: Sequence[Path]) -> Given:
    """Tell bundles from engines, and find what each is compared with.

    Raises:
        BadArtifact: neither a bundle nor an engine.
        BadInput: two of one name, of two vocabularies, or no FP32 bundle or engine of the same model, or of
            the network that it was compacted from.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise BadInput("two artefacts have one name", where=", ".join(names), fix="rename one")
    found = [_open(path) for path in paths]
    vocabulary = found[0].record.vocabulary
    for one in found:
        if one.record.vocabulary != vocabulary:
            raise BadInput(
                f"its classes are not those of {found[0].path}",
                where=one.path,
                fix="measure them in two runs",
            )
    # A bundle goes before an engine of it, so that all have one reference.
    parents = {one.sha256: one.path for one in reversed(found) if one.is_fp32 and one.target}
    parents |= {one.sha256: one.path for one in found if one.is_fp32 and one.target is None}
    checkpoints = {one.record.parents.checkpoint for one in found if one.is_fp32}
    for one in found:
        if one.record.parents.whole not in (None, *checkpoints):
            raise BadInput(
                "the network that this was compacted from is not among the arguments, and it is "
                "compared with that",
                where=one.path,
                fix="give its FP32 bundle, or that checkpoint, too",
            )
    return Given(
        tuple(one.path for one in found if one.is_fp32 and one.target is None),
        tuple(_made(one, parents) for one in found if one.target or not one.is_fp32),
        vocabulary,
    )


def _open(path: Path) -> _Artefact:
    if path.is_dir():
        bundle = load_bundle(path)
        return _Artefact(path, bundle.record, bundle.sha256, None)
    engine = load_engine(path)
    return _Artefact(path, engine.record.bundle, engine.record.bundle_sha256, engine.record.target)


def _made(one: _Artefact, parents: dict[str, Path]) -> MadeArtefact:
    sha256 = one.sha256 if one.is_fp32 else one.record.parents.bundle
    if sha256 not in parents:
        raise BadInput(
            f"the FP32 bundle that this {one.record.precision} was made of is not among the "
            "arguments, and it is compared with that",
            where=one.path,
            fix="give that bundle, or its FP32 engine, too",
        )
    precision, scheme = one.record.precision, one.record.scheme
    return MadeArtefact(one.path, parents[sha256], precision, scheme, one.target)

"""Opening engines, and bundles where engines are expected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segclip_deploy.artifacts.bundle import InputSpec, bundle_sha256, load_bundle
from segclip_deploy.artifacts.bundle_record import BundleRecord
from segclip_deploy.artifacts.engine import golden_path, load_engine, record_path
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.registry import BUNDLES, find_target
from segclip_deploy.runtime.targets.device import find_cpu
from segclip_deploy.runtime.verify import verify

__all__ = [
    "Opened",
    "bundle_record_of",
    "engine_sha256",
    "is_threaded",
    "open_engine",
    "open_segmenter",
]


@dataclass(frozen=True)
class Opened:
    """An engine or bundle, loaded and ready.

    Attributes:
        backend: to be closed by whoever opened it.
        input: of the graph.
        vocabulary: classes and palette.
        golden_path: tiles for verification.
    """

    backend: Backend
    input: InputSpec
    vocabulary: Vocabulary
    golden_path: Path


def open_engine(path: str | Path, *, threads: int = 0) -> Opened:
    """Open an engine, or a bundle, which runs in ONNX Runtime; ``backend.name`` says which.

    Raises:
        BadArtifact: neither, or its target refuses it.
        BadInput: threads, for an engine that has none.
    """
    path = Path(path)
    if path.is_dir():
        bundle = load_bundle(path)
        backend = BUNDLES.open(
            bundle.model_path,
            batches=bundle.input.batches,
            threads=threads,
            reference=bundle.scheme is not None and bundle.scheme.rules.reference,
        )
        return Opened(backend, bundle.input, bundle.vocabulary, bundle.golden_path)
    engine = load_engine(path)
    record, remedy = engine.record, engine.rebuild_command()
    target = find_target(record.target, where=path, fix=remedy)
    settings = dict(record.built.settings)
    if threads:
        if not target.takes_threads:
            raise BadInput(f"an engine for {target.name} has none", where="--threads")
        settings["threads"] = threads
    elif target.takes_threads and record.built.device != find_cpu():
        settings.pop("threads", None)  # measured on another processor
    target.admit(engine)
    try:
        backend = target.open(
            path, batches=engine.input.batches, sha256=record.engine_sha256, **settings
        )
    except BadArtifact as error:
        raise BadArtifact(error.what, where=path, fix=error.fix or remedy) from error
    except (TypeError, LookupError) as error:
        raise BadArtifact(
            f"its settings are not those of {target.name} ({error!r})",
            where=record_path(path),
            fix=remedy,
        ) from error
    return Opened(backend, engine.input, engine.vocabulary, golden_path(path))


def open_segmenter(
    path: str | Path, *, overlap: int | None = None, threads: int = 0, preflight: bool = False
) -> Segmenter:
    """Open an engine or a bundle for frames of any size.

    Args:
        preflight: hold it against its golden tiles first.

    Raises:
        BadArtifact: neither, or its target refuses it.
        BadInput: an overlap that does not fit the model.
        GateFailed: it failed verification.

    Examples:
        >>> from segclip_deploy import open_segmenter
        >>> with open_segmenter("dubai.ort.onnx") as segment:
        ...     segment("tile.jpg")
        <LabelMap of 859×838 pixels, 5 classes of dubai>
    """
    opened = open_engine(path, threads=threads)
    try:
        if preflight:
            golden = load_golden(opened.golden_path)
            verify(opened.backend, golden, opened.vocabulary.names).require(where=path)
        return Segmenter(opened.backend, opened.input, opened.vocabulary, overlap=overlap)
    except BaseException:
        opened.backend.close()
        raise


def engine_sha256(path: Path) -> str:
    """Of an engine's or bundle's record, which names the model's hash, and the settings it runs with."""
    return bundle_sha256(path) if path.is_dir() else sha256_file(record_path(path))


def bundle_record_of(path: Path) -> BundleRecord:
    """Of a bundle, or of the one that an engine was made of.

    Raises:
        BadArtifact: neither.
    """
    return load_bundle(path).record if path.is_dir() else load_engine(path).record.bundle


def is_threaded(path: Path) -> bool:
    """Whether an engine or bundle runs on threads of the CPU; it is not opened, which may not work here.

    Raises:
        BadArtifact: neither.
    """
    if path.is_dir():
        load_bundle(path)
        return True
    engine = load_engine(path)
    target = find_target(engine.record.target, where=path, fix=engine.rebuild_command())
    return target.takes_threads

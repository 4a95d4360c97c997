"""Engines: a bundle made ready for one target, with a sidecar that says what it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts import (
    RECORD_FILE,
    Bundle,
    InputSpec,
    check_file,
    check_schema,
    load_bundle,
    read_json,
    replace_file,
    sha256_file,
    write_json,
)
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.runtime.backends.base import Backend
from segclip_deploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.backends.openvino import OpenVinoBackend
from segclip_deploy.runtime.golden import load_golden
from segclip_deploy.runtime.segmenter import Segmenter
from segclip_deploy.runtime.verify import check, verify
from segclip_deploy.vocabulary import Vocabulary

__all__ = [
    "ENGINE_SCHEMA",
    "TARGETS",
    "Engine",
    "Opened",
    "build_engine",
    "load_engine",
    "open_engine",
    "open_segmenter",
    "target_of",
]

ENGINE_SCHEMA = 1


@dataclass(frozen=True)
class Target:
    """Something that runs engines.

    Attributes:
        suffix: of its engine files.
        open: file, thread count and batches → a backend.
    """

    suffix: str
    open: Callable[..., Backend]


TARGETS: Mapping[str, Target] = {
    "onnxruntime": Target(".ort.onnx", OnnxRuntimeBackend),
    "openvino": Target(".ov.onnx", OpenVinoBackend),
}


@dataclass(frozen=True)
class Engine:
    """An engine file and what its sidecar says.

    Attributes:
        path: the file.
        target: a key of ``TARGETS``.
        input: of the graph.
        vocabulary: classes and palette.
        record: the whole sidecar.
    """

    path: Path
    target: str
    input: InputSpec
    vocabulary: Vocabulary
    record: Mapping[str, Any]


def target_of(path: Path) -> str:
    """The target an engine's name stands for.

    Raises:
        BadInput: a name that stands for none.
    """
    for name, target in TARGETS.items():
        if path.name.endswith(target.suffix):
            return name
    endings = " or ".join(f"NAME{target.suffix}" for target in TARGETS.values())
    raise BadInput(f"an engine is named {endings}", where=path)


def build_engine(bundle: Bundle, out: Path) -> Engine:
    """Make an engine of a bundle, once the target has accepted it and passed the flight check.

    Args:
        out: its name says the target: ``NAME.ov.onnx`` or ``NAME.ort.onnx``.

    Raises:
        BadArtifact: the target refuses the model.
        BadInput: a name that stands for no target.
        GateFailed: the target does not say what the model says; nothing is written.
        MissingDependency: the target is not installed.
    """
    target = target_of(out)
    backend = TARGETS[target].open(bundle.model_path, batches=bundle.input.batches)
    verification = verify(backend, load_golden(bundle.golden_path), bundle.vocabulary.names)
    backend.close()
    check(verification, where=bundle.path)
    # The sidecar comes last: without it, or with one of other hashes, nothing is an engine.
    for source, copy in ((bundle.golden_path, golden_path(out)), (bundle.model_path, out)):
        with replace_file(copy) as temporary:
            shutil.copyfile(source, temporary)
    write_json(
        sidecar(out),
        {
            "schema": ENGINE_SCHEMA,
            "target": target,
            "engine_sha256": sha256_file(out),
            "golden_sha256": sha256_file(golden_path(out)),
            "bundle_sha256": sha256_file(bundle.path / RECORD_FILE),
            "verified": verification.to_json(),
            "bundle": dict(bundle.record),
        },
    )
    return load_engine(out)


def load_engine(path: Path) -> Engine:
    """Read an engine's sidecar and check that the file is the one it speaks of.

    Raises:
        BadArtifact: no sidecar, or not a valid one.
        StaleArtifact: the file was changed after it was built.
    """
    remedy = f"segclip-deploy build-engine BUNDLE -o {path}"
    if not path.is_file() or not sidecar(path).is_file():
        raise BadArtifact(
            f"not an engine (a file with {sidecar(path).name} beside it)", where=path, fix=remedy
        )
    record = read_json(sidecar(path))
    try:
        check_schema(record, ENGINE_SCHEMA, where=path)
        engine = Engine(
            path=path,
            target=record["target"],
            input=InputSpec(**record["bundle"]["input"]),
            vocabulary=Vocabulary.from_mapping(record["bundle"]["vocabulary"], where=sidecar(path)),
            record=record,
        )
        if engine.target not in TARGETS:
            raise BadArtifact(f"unknown target {engine.target!r}", where=path, fix=remedy)
        check_file(path, record["engine_sha256"], sidecar(path), fix=remedy)
        check_file(golden_path(path), record["golden_sha256"], sidecar(path), fix=remedy)
    except (KeyError, TypeError, BadInput) as error:
        raise BadArtifact(
            f"not a valid sidecar ({error!r})", where=sidecar(path), fix=remedy
        ) from error
    return engine


@dataclass(frozen=True)
class Opened:
    """An engine or bundle, loaded and ready.

    Attributes:
        backend: to be closed by whoever opened it.
        input: of the graph.
        vocabulary: classes and palette.
        golden_path: tiles for the flight check.
    """

    backend: Backend
    input: InputSpec
    vocabulary: Vocabulary
    golden_path: Path


def open_engine(path: str | Path, *, threads: int = 0) -> Opened:
    """Open an engine, or a bundle, which runs in ONNX Runtime; ``backend.name`` says which.

    Raises:
        BadArtifact: neither, or its target refuses it.
    """
    path = Path(path)
    if path.is_dir():
        bundle = load_bundle(path)
        backend: Backend = OnnxRuntimeBackend(
            bundle.model_path, threads=threads, batches=bundle.input.batches
        )
        return Opened(backend, bundle.input, bundle.vocabulary, bundle.golden_path)
    engine = load_engine(path)
    backend = TARGETS[engine.target].open(
        engine.path, threads=threads, batches=engine.input.batches
    )
    return Opened(backend, engine.input, engine.vocabulary, golden_path(path))


def open_segmenter(path: str | Path, *, overlap: int | None = None, threads: int = 0) -> Segmenter:
    """Open an engine or a bundle for frames of any size.

    Raises:
        BadArtifact: neither, or its target refuses it.
        BadInput: an overlap that does not fit the model.
    """
    opened = open_engine(path, threads=threads)
    return Segmenter(opened.backend, opened.input, opened.vocabulary, overlap=overlap)


def sidecar(path: Path) -> Path:
    """Where an engine's record lies."""
    return path.with_name(path.name + ".json")


def golden_path(path: Path) -> Path:
    """Where an engine's golden tiles lie."""
    return path.with_name(path.name + ".golden.npz")

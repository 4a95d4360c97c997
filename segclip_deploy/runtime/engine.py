"""Engines: a bundle made ready for one target, with a sidecar that says what it is."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle import (
    InputSpec,
    bundle_sha256,
    check_file,
    check_schema,
    load_bundle,
)
from segclip_deploy.artifacts.bundle_record import BUNDLE, BundleRecord
from segclip_deploy.artifacts.files import UNREADABLE, read_json, sha256_file
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.onnx_file import check_self_contained
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput, SegclipError, StaleArtifact
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.targets.device import find_cpu, find_gpu
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend
from segclip_deploy.runtime.targets.tensorrt.backend import TensorRtBackend
from segclip_deploy.runtime.targets.tensorrt.compatibility import device_record, differences
from segclip_deploy.runtime.targets.tensorrt.library import MODULES, load_library
from segclip_deploy.runtime.verify import check, verify

__all__ = [
    "ENGINE_SCHEMA",
    "TARGETS",
    "Engine",
    "Opened",
    "check_device",
    "engine_sha256",
    "golden_path",
    "load_engine",
    "move_engine",
    "open_engine",
    "open_segmenter",
    "rebuild_command",
    "sidecar",
    "target_of",
]

ENGINE_SCHEMA = 2


@dataclass(frozen=True)
class Target:
    """Something that runs engines.

    Attributes:
        suffix: of its engine files.
        open: file, settings and batches → a backend.
    """

    suffix: str
    open: Callable[..., Backend]


TARGETS: Mapping[str, Target] = {
    "onnxruntime": Target(".ort.onnx", OnnxRuntimeBackend),
    "openvino": Target(".ov.onnx", OpenVinoBackend),
    **{
        name: Target(suffix, partial(TensorRtBackend, target=name))
        for name, suffix in (("tensorrt", ".engine"), ("tensorrt-rtx", ".rtx"))
    },
}


@dataclass(frozen=True)
class Engine:
    """An engine file and what its sidecar says.

    Attributes:
        path: the file.
        target: a key of ``TARGETS``.
        bundle: the record of the bundle it was made of.
        record: the whole sidecar.
    """

    path: Path
    target: str
    bundle: BundleRecord
    record: Mapping[str, Any]

    @property
    def input(self) -> InputSpec:
        """Of the graph."""
        return self.bundle.input

    @property
    def vocabulary(self) -> Vocabulary:
        """Classes and palette."""
        return self.bundle.vocabulary


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


def load_engine(path: Path) -> Engine:
    """Read an engine's sidecar and check that the file is the one it speaks of.

    Raises:
        BadArtifact: no sidecar, or not a valid one; or a model with parts in other files.
        StaleArtifact: the file was changed after it was built.
    """
    remedy = rebuild_command({}, path)
    if not path.is_file() or not sidecar(path).is_file():
        raise BadArtifact(
            f"not an engine (a file with {sidecar(path).name} beside it)", where=path, fix=remedy
        )
    record = read_json(sidecar(path))
    try:
        check_schema(record, ENGINE_SCHEMA, where=path)
        remedy = rebuild_command(record, path)
        engine = Engine(
            path=path,
            target=record["target"],
            bundle=BUNDLE.parse(record["bundle"], where=sidecar(path), fix=remedy),
            record=record,
        )
        if engine.target not in TARGETS:
            raise BadArtifact(f"unknown target {engine.target!r}", where=path, fix=remedy)
        for key, kind in (("arguments", list), ("device", dict), ("settings", dict)):
            if not isinstance(record[key], kind):
                raise TypeError(f"its {key} are of another kind")
        check_file(path, record["engine_sha256"], sidecar(path), fix=remedy)
        check_file(golden_path(path), record["golden_sha256"], sidecar(path), fix=remedy)
    except (*UNREADABLE, BadInput) as error:
        raise BadArtifact(
            f"not a valid sidecar ({error!r})", where=sidecar(path), fix=remedy
        ) from error
    if path.suffix == ".onnx":
        check_self_contained(path)
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
            bundle.model_path,
            threads=threads,
            batches=bundle.input.batches,
            literal=bundle.scheme is not None and bundle.scheme.rules.literal,
        )
        return Opened(backend, bundle.input, bundle.vocabulary, bundle.golden_path)
    engine = load_engine(path)
    settings = dict(engine.record["settings"])
    if engine.target == "openvino":
        settings["sha256"] = engine.record["engine_sha256"]  # load_engine has checked it
    if engine.target in MODULES:
        if threads:
            raise BadInput(f"an engine for {engine.target} has none", where="--threads")
        check_device(engine)
    elif threads:
        settings["threads"] = threads
    elif engine.record["device"] != find_cpu().to_json():
        settings.pop("threads", None)  # measured on another processor
    try:
        backend = TARGETS[engine.target].open(engine.path, batches=engine.input.batches, **settings)
    except BadArtifact as error:
        remedy = error.fix or rebuild_command(engine.record, path)
        raise BadArtifact(error.what, where=path, fix=remedy) from error
    except (TypeError, LookupError) as error:
        raise BadArtifact(
            f"its settings are not those of {engine.target} ({error!r})",
            where=sidecar(path),
            fix=rebuild_command(engine.record, path),
        ) from error
    return Opened(backend, engine.input, engine.vocabulary, golden_path(path))


def check_device(engine: Engine) -> None:
    """Accept a TensorRT engine that was built for this machine.

    Raises:
        MissingDependency: no GPU, or no TensorRT.
        StaleArtifact: built for another GPU, compute capability or library version.
    """
    trt = load_library(engine.target)
    gpu = find_gpu(why=f"an engine for {engine.target}")
    here = device_record(trt, gpu, [gpu.compute_capability])
    found = differences(engine.record["device"], here, engine.record["arguments"])
    if found:
        raise StaleArtifact(
            "; ".join(found), where=engine.path, fix=rebuild_command(engine.record, engine.path)
        )


def engine_sha256(path: Path) -> str:
    """Of an engine's or bundle's record, which names the model's hash, and the settings it runs with."""
    return bundle_sha256(path) if path.is_dir() else sha256_file(sidecar(path))


def rebuild_command(record: Mapping[str, Any], path: Path) -> str:
    """The command that builds an engine anew, as its sidecar has it."""
    bundle = record.get("bundle_path", "BUNDLE")
    arguments = record.get("arguments", [])
    return shlex.join(["segclip-deploy", "build-engine", bundle, "-o", str(path), *arguments])


def open_segmenter(
    path: str | Path, *, overlap: int | None = None, threads: int = 0, preflight: bool = False
) -> Segmenter:
    """Open an engine or a bundle for frames of any size.

    Args:
        preflight: hold it against its golden tiles first.

    Raises:
        BadArtifact: neither, or its target refuses it.
        BadInput: an overlap that does not fit the model.
        GateFailed: it failed the flight check.
    """
    opened = open_engine(path, threads=threads)
    try:
        if preflight:
            golden = load_golden(opened.golden_path)
            check(verify(opened.backend, golden, opened.vocabulary.names), where=path)
        return Segmenter(opened.backend, opened.input, opened.vocabulary, overlap=overlap)
    except SegclipError:
        opened.backend.close()
        raise


def move_engine(engine: Engine, to: Path) -> None:
    """Rename an engine and what lies beside it, over another of the same target; sidecar last."""
    for place in (golden_path, Path, sidecar):
        place(engine.path).replace(place(to))


def sidecar(path: Path) -> Path:
    """Where an engine's record lies."""
    return path.with_name(path.name + ".json")


def golden_path(path: Path) -> Path:
    """Where an engine's golden tiles lie."""
    return path.with_name(path.name + ".golden.npz")

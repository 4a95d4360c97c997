"""What is profiled: an engine, or a bundle, which runs in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.bundle_record import BundleRecord
from segclip_deploy.artifacts.engine import golden_path, load_engine
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.runtime.registry import BUNDLES, find_target
from segclip_deploy.runtime.targets.base import Settings, Target

__all__ = ["Subject", "read_subject"]


@dataclass(frozen=True)
class Subject:
    """An engine or a bundle, as its record has it.

    Attributes:
        model: the file that runs.
        target: what runs it.
        settings: of its backend.
        precision: the lowest in it.
        sha256: of the file.
        bundle_sha256: of the record of the bundle it was made of.
        golden_path: its golden tiles.
        blocks: of the model.
        told: block by layer, where the layers' names do not tell it.
    """

    model: Path
    target: Target
    settings: Settings
    precision: str
    sha256: str
    bundle_sha256: str
    golden_path: Path
    blocks: tuple[str, ...]
    told: Mapping[str, str]


def read_subject(path: Path, threads: int) -> Subject:
    """Read a record; ``threads`` other than 0 are taken in place of its own.

    Raises:
        BadArtifact: neither an engine nor a bundle.
    """
    own = {"threads": threads} if threads else {}
    if path.is_dir():
        bundle = load_bundle(path)
        return Subject(
            model=bundle.model_path,
            target=BUNDLES,
            settings=own,
            precision=bundle.precision,
            sha256=sha256_file(bundle.model_path),
            bundle_sha256=bundle.sha256,
            golden_path=bundle.golden_path,
            blocks=_blocks(bundle.record),
            told={},
        )
    engine = load_engine(path)
    record = engine.record
    layers = record.built.layers or ()
    return Subject(
        model=path,
        target=find_target(record.target, where=path, fix=engine.rebuild_command()),
        settings={**record.built.settings, **own},
        precision=record.bundle.precision,
        sha256=record.engine_sha256,
        bundle_sha256=record.bundle_sha256,
        golden_path=golden_path(path),
        blocks=_blocks(record.bundle),
        told={layer.name: layer.blocks[0] for layer in layers if layer.blocks},
    )


def _blocks(bundle: BundleRecord) -> tuple[str, ...]:
    return tuple(cost.block for cost in bundle.blocks)

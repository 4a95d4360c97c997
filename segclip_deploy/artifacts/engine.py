"""Engines on disk: the file, its golden tiles, and the record beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy import __version__
from segclip_deploy.artifacts.bundle import Bundle, check_file
from segclip_deploy.artifacts.engine_record import ENGINE, Built, EngineRecord
from segclip_deploy.artifacts.files import (
    flush,
    locked,
    read_json,
    replace_file,
    sha256_file,
)
from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.onnx_file import check_self_contained
from segclip_deploy.artifacts.precision_share import precision_shares
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, command

__all__ = [
    "Engine",
    "golden_path",
    "load_engine",
    "move_engine",
    "record_path",
    "write_engine",
]


@dataclass(frozen=True)
class Engine:
    """An engine file and what its record says.

    Attributes:
        path: the file.
        record: beside it.
    """

    path: Path
    record: EngineRecord

    def to_json(self) -> dict[str, Any]:
        """What the record says."""
        return ENGINE.dump(self.record)

    @property
    def input(self) -> InputSpec:
        """Of the graph."""
        return self.record.bundle.input

    @property
    def vocabulary(self) -> Vocabulary:
        """Classes and palette."""
        return self.record.bundle.vocabulary

    def rebuild_command(self, bundle: Path | None = None) -> str:
        """The command that builds it anew; of another bundle, if one is given."""
        source = self.record.bundle_path if bundle is None else str(bundle)
        return _rebuild_command(source, self.path, self.record.arguments)


def load_engine(path: str | Path) -> Engine:
    """Read an engine's record and check that its files are those the record speaks of.

    Raises:
        BadArtifact: no record, or not a valid one; or a model with parts in other files.
        StaleArtifact: a file was changed after it was built.

    Examples:
        >>> from segclip_deploy import load_engine
        >>> engine = load_engine("dubai.ort.onnx")
        >>> engine.record.target, engine.input.sides
        ('onnxruntime', '(1, 512, 512, 3)')
        >>> print(engine.rebuild_command(Path("dubai")))
        segclip-deploy build-engine dubai -o dubai.ort.onnx
    """
    path = Path(path)
    remedy = _rebuild_command("BUNDLE", path, ())
    if not path.is_file() or not record_path(path).is_file():
        raise BadArtifact(
            f"not an engine (a file with {record_path(path).name} beside it)",
            where=path,
            fix=remedy,
        )
    data = read_json(record_path(path))
    remedy = _rebuild_command(*_told(data, path))
    record = ENGINE.parse(data, where=record_path(path), fix=remedy)
    check_file(path, record.engine_sha256, record_path(path), fix=remedy)
    check_file(golden_path(path), record.golden_sha256, record_path(path), fix=remedy)
    if path.suffix == ".onnx":
        check_self_contained(path)
    return Engine(path, record)


def write_engine(
    out: Path, file: Path, bundle: Bundle, *, target: str, arguments: tuple[str, ...], built: Built
) -> None:
    """Put an engine in its place, with its golden tiles and its record.

    Two processes may build the same engine: each puts all three there, one after the other.

    Args:
        out: the engine's place.
        file: the engine, in the same directory; it is moved.
        bundle: what it was made of.
        target, arguments, built: as in ``EngineRecord``.
    """
    record = EngineRecord(
        segclip_deploy=__version__,
        target=target,
        engine_sha256=sha256_file(file),
        golden_sha256=bundle.files[bundle.golden_path.name],
        bundle_sha256=bundle.sha256,
        bundle_path=str(bundle.path),
        bytes=file.stat().st_size,
        arguments=arguments,
        built=built,
        bundle=bundle.record,
        precision_shares=precision_shares(bundle.record, built.layers),
    )
    with (
        locked(out),
        replace_file(out) as engine,
        replace_file(record_path(out)) as written,
        replace_file(golden_path(out)) as tiles,
    ):
        file.replace(engine)
        shutil.copyfile(bundle.golden_path, tiles)
        for path in (engine, tiles):
            flush(path)
        ENGINE.write(written, record)


def move_engine(engine: Engine, to: Path) -> None:
    """Rename an engine and what lies beside it, over another of the same target; its record last."""
    for place in (golden_path, Path, record_path):
        place(engine.path).replace(place(to))


def record_path(path: Path) -> Path:
    """Where an engine's record lies."""
    return path.with_name(path.name + ".json")


def golden_path(path: Path) -> Path:
    """Where an engine's golden tiles lie."""
    return path.with_name(path.name + ".golden.npz")


def _told(data: Mapping[str, Any], path: Path) -> tuple[str, Path, tuple[str, ...]]:
    """What a record of any schema, or a damaged one, tells of how its engine was built."""
    bundle, arguments = data.get("bundle_path"), data.get("arguments")
    return (
        bundle if isinstance(bundle, str) else "BUNDLE",
        path,
        tuple(map(str, arguments)) if isinstance(arguments, list) else (),
    )


def _rebuild_command(bundle: str, path: Path, arguments: tuple[str, ...]) -> str:
    return command("segclip-deploy", "build-engine", bundle, "-o", path, *arguments)

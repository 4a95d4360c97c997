"""What every artefact shares: hashes of its parents, a schema, and the Bundle itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.files import UNREADABLE, read_json, sha256_file
from segclip_deploy.artifacts.onnx_file import check_self_contained
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact

__all__ = [
    "BUNDLE_SCHEMA",
    "Bundle",
    "InputSpec",
    "check_file",
    "check_schema",
    "describe_shape",
    "load_bundle",
]

BUNDLE_SCHEMA = 1
MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
TEXT_FILE = "text.safetensors"
RECORD_FILE = "bundle.json"
BUNDLE_FILES = (MODEL_FILE, GOLDEN_FILE, TEXT_FILE, RECORD_FILE)


def check_schema(record: Mapping[str, Any], known: int, *, where: object) -> None:
    """Accept a record of this version's schema or an older one.

    Raises:
        BadArtifact: the record is of a newer schema.
        KeyError: it names none.
        TypeError: one that is no number.
    """
    if record["schema"] > known:
        raise BadArtifact(
            f"its schema {record['schema']} is newer than this version reads ({known})",
            where=where,
            fix="pip install --upgrade segclip-deploy",
        )


def check_file(file: Path, digest: str | None, record: Path, *, fix: str) -> None:
    """Accept a file that has the SHA-256 its record states.

    Raises:
        StaleArtifact: it is missing, or was changed after the record was written.
    """
    if not file.is_file() or sha256_file(file) != digest:
        raise StaleArtifact(
            f"{file.name} is not the file {record.name} was written for",
            where=file.parent,
            fix=fix,
        )


def describe_shape(batches: range, sides: Iterable[int]) -> str:
    """A shape for people: ``(1..8, 512, 512, 3)``."""
    least, most = batches.start, batches.stop - 1
    batch = str(most) if least == most else f"{least}..{most}"
    return f"({', '.join([batch, *map(str, sides)])})"


@dataclass(frozen=True)
class InputSpec:
    """What a model's graph takes: uint8 RGB images (batch, height, width, 3).

    Attributes:
        height: pixels, static.
        width: pixels, static.
        batch: images per inference; the most of them, where ``min_batch`` is given.
        min_batch: the fewest images per inference; None: always ``batch``.

    Raises:
        BadInput: a range of batches without any, or one below 1; sides that are no sizes.
    """

    height: int
    width: int
    batch: int = 1
    min_batch: int | None = None

    def __post_init__(self) -> None:
        sizes = (self.height, self.width, self.batch)
        if not all(isinstance(n, int) and n <= 0xFFFF for n in sizes) or min(sizes[:2]) < 1:
            raise BadInput(f"an input of {self.height!r}×{self.width!r} cannot be")
        if not self.batches or self.batches.start < 1:
            raise BadInput(f"batches from {self.batches.start} to {self.batch} cannot be")

    @property
    def batches(self) -> range:
        """Every number of images that an inference takes."""
        return range(self.batch if self.min_batch is None else self.min_batch, self.batch + 1)

    @property
    def sides(self) -> str:
        """The shape, for people."""
        return describe_shape(self.batches, (self.height, self.width, 3))


@dataclass(frozen=True)
class Bundle:
    """A directory with an ONNX model and the record of what it is and comes from.

    Attributes:
        path: the directory.
        input: the graph's input.
        outputs: names of the graph's outputs, in order.
        vocabulary: classes, palette and texts.
        files: SHA-256 of the bundle's other files, by name.
        record: the whole of ``bundle.json``.
    """

    path: Path
    input: InputSpec
    outputs: tuple[str, ...]
    vocabulary: Vocabulary
    files: Mapping[str, str]
    record: Mapping[str, Any]

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE

    @property
    def precision(self) -> str:
        """The lowest precision written into the model: fp32, fp16 or int8."""
        return str(self.record["precision"])

    @property
    def scheme(self) -> Scheme | None:
        """How its precision was written; None for FP32."""
        name = self.record.get("dialect")
        return None if name is None else Scheme(name)

    @property
    def golden_path(self) -> Path:
        """The golden tiles."""
        return self.path / GOLDEN_FILE

    @property
    def text_path(self) -> Path | None:
        """What new texts are folded in from; None where the network keeps no text apart."""
        return self.path / TEXT_FILE if TEXT_FILE in self.files else None


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle and check that its files are those its record speaks of.

    Raises:
        BadArtifact: not a bundle, of a newer schema, or one with parts outside its directory.
        StaleArtifact: a file was changed after the record was written.
    """
    path = Path(path)
    remedy = f"segclip-deploy export CKPT -o {path}"
    if not (path / RECORD_FILE).is_file():
        raise BadArtifact(
            f"not a bundle (no {RECORD_FILE})",
            where=path,
            fix=remedy,
        )
    record = read_json(path / RECORD_FILE)
    if record.get("dialect"):
        remedy = f"segclip-deploy quantize FP32_BUNDLE -o {path}"
    try:
        check_schema(record, BUNDLE_SCHEMA, where=path)
        bundle = Bundle(
            path=path,
            input=InputSpec(**record["input"]),
            outputs=tuple(record["outputs"]),
            vocabulary=Vocabulary.from_mapping(record["vocabulary"], where=path / RECORD_FILE),
            files=dict(record["files"]),
            record=record,
        )
    except (*UNREADABLE, BadInput) as error:
        raise BadArtifact(
            f"not a valid {RECORD_FILE} ({error!r})",
            where=path,
            fix=remedy,
        ) from error
    for name in dict.fromkeys((MODEL_FILE, GOLDEN_FILE, *bundle.files)):
        _check_place(path, name)
        check_file(path / name, bundle.files.get(name), path / RECORD_FILE, fix=remedy)
    check_self_contained(bundle.model_path)
    return bundle


def _check_place(bundle: Path, name: str) -> None:
    """Accept a file of a bundle that lies in it: neither its name nor a link leads out.

    Raises:
        BadArtifact: one leads out.
    """
    real = Path(os.path.realpath(bundle / name))
    if name not in BUNDLE_FILES or real.parent != Path(os.path.realpath(bundle)):
        raise BadArtifact(
            f"its file {name!r} is none of a bundle, or lies outside it",
            where=bundle,
            fix="copy the bundle's files into one directory",
        )

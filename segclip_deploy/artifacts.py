"""What every artefact shares: hashes of its parents, atomic writes, and the Bundle itself."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact
from segclip_deploy.onnx_file import check_self_contained
from segclip_deploy.vocabulary import Vocabulary

__all__ = [
    "BUNDLE_SCHEMA",
    "UNREADABLE",
    "Bundle",
    "InputSpec",
    "check_file",
    "check_schema",
    "describe_shape",
    "load_bundle",
    "locked",
    "parse_json",
    "read_json",
    "read_npz",
    "replace_directory",
    "replace_file",
    "sha256_file",
    "temporary_file",
    "write_json",
]

BUNDLE_SCHEMA = 1
MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
TEXT_FILE = "text.safetensors"
RECORD_FILE = "bundle.json"
BUNDLE_FILES = (MODEL_FILE, GOLDEN_FILE, TEXT_FILE, RECORD_FILE)
_TEMPORARY = ".segclip-deploy."  # prefix of whatever is not finished yet

_MOST_UNPACKED = 2 << 30
"""Bytes of all arrays of an ``.npz``. Golden tiles of 2048² with 15 classes take 0.3 GB."""

UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What taking apart parsed JSON or YAML raises where its values are of other kinds than expected."""


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; what has not been moved away is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` only if the body succeeds."""
    with temporary_file(path) as temporary:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a path: other processes that ask for it wait, and a dead one holds none."""
    try:
        import fcntl
    except ImportError:  # Windows, where nothing is renamed over a file that another one has open
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{_TEMPORARY}{path.name}.lock")
    while True:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    continue
            except FileNotFoundError:  # who held it has removed it
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


@contextmanager
def replace_directory(path: Path, *, contents: Collection[str]) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; swap it in only if the body succeeds.

    An existing ``path`` is replaced only where it is a directory that holds nothing but files
    named in ``contents``, those of an artefact of the same kind: nobody's photos are deleted.

    Raises:
        BadInput: ``path`` exists and is, or holds, something else.
    """
    path = path.resolve()  # "." and links cannot be renamed over
    if path.exists():
        foreign = sorted({p.name for p in path.iterdir()} - set(contents)) if path.is_dir() else []
        if foreign or not path.is_dir():
            raise BadInput(
                f"holds {foreign[0]}" if foreign else "exists and is not a directory",
                where=path,
                fix="it will not be overwritten, choose another output",
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_TEMPORARY))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        with locked(path):
            _swap_in(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write readable JSON, atomically."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadArtifact: the file cannot be read, or holds no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadArtifact(f"not readable as JSON ({error})", where=path) from error
    return parse_json(text, where=path)


def parse_json(text: str, *, where: object) -> dict[str, Any]:
    """Parse a JSON object, all of whose numbers are finite.

    Raises:
        BadArtifact: it is none.
    """
    try:
        data = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise BadArtifact(f"not readable as JSON ({error})", where=where) from error
    if not isinstance(data, dict):
        raise BadArtifact("not a JSON object", where=where)
    return data


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz``, never a pickle.

    Raises:
        BadArtifact: it cannot be read, or would unpack to more than 2 GiB.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # which unpacks no more than is stated here
            size = sum(member.file_size for member in archive.infolist())
        if size > _MOST_UNPACKED:
            raise ValueError(f"its arrays take {size / 2**30:.0f} GiB")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # NumPy and zipfile raise many types on damaged files
        raise BadArtifact(f"not readable as .npz ({error})", where=path) from error


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
    def dialect(self) -> str | None:
        """Whom its precision was written for: tensorrt or cpu; None for FP32."""
        return self.record.get("dialect")

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


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number that JSON has")
    return value


def _swap_in(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.replace(path)
        return
    # A directory cannot be renamed over a full one: move the old aside, and back if the new fails.
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_TEMPORARY))
    old = aside / path.name
    try:
        path.replace(old)
        temporary.replace(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.replace(path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Files: written whole or not at all, and read with no more trust than they deserve."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadArtifact, BadInput

__all__ = [
    "UNREADABLE",
    "flush",
    "flush_folder",
    "locked",
    "parse_json",
    "read_json",
    "read_npz",
    "remove_unfinished",
    "replace_directory",
    "replace_file",
    "sha256_file",
    "temporary_file",
    "write_file",
    "write_json",
]

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


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process has left half written in a folder and its sub-folders."""
    for path in folder.rglob(f"{_TEMPORARY}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Bring a file's bytes to the disk: what is renamed into its place then survives a power cut."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def flush_folder(path: Path) -> None:
    """Bring a folder's entries to the disk: files that were renamed in it survive a power cut there."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_file(path: Path, data: bytes, *, flushed: bool = False) -> None:
    """Write a file, whole or not at all.

    Args:
        flushed: after a power cut, too.

    Raises:
        OSError: it could not be written; says which file.
    """
    try:
        with replace_file(path) as temporary:
            temporary.write_bytes(data)
            if flushed:
                flush(temporary)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a path: other processes that ask for it wait, and a dead one holds none."""
    from filelock import FileLock  # imported at use: --help needs no lock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{_TEMPORARY}{path.name}.lock")
    with FileLock(lock):
        try:
            yield
        finally:
            # filelock 4 leaves the file. It takes no lock of a file that is gone: whoever waits
            # makes another. Windows removes no open file; there filelock does, after the release.
            with suppress(PermissionError):
                lock.unlink(missing_ok=True)


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


def refuse_foreign(folder: Path, *, ours: bool) -> None:
    """Refuse to write into a folder that holds something, unless it is marked as written by this command.

    Args:
        ours: whether the mark is there.

    Raises:
        BadInput: it holds something, and is not ours.
    """
    if not ours and folder.exists() and any(folder.iterdir()):
        raise BadInput(
            "exists and was not written by this command", where=folder, fix="choose another -o"
        )


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write readable JSON, atomically, so that a power cut leaves the old file or the new one."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        flush(temporary)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadArtifact: the file cannot be read, or holds no JSON object.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadArtifact(f"not readable as JSON ({error})", where=path) from error
    return parse_json(text, where=path)


def parse_json(text: str | bytes, *, where: object) -> dict[str, Any]:
    """Parse a JSON object, all of whose numbers are finite and all of whose text can be printed.

    Raises:
        BadArtifact: it is none.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        data = json.loads(text, parse_float=_finite, parse_constant=_finite)
        if r"\ud" in text.lower():  # an escaped half of a surrogate pair can never be printed
            json.dumps(data, ensure_ascii=False).encode()
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

"""ROS 2 recordings as they lie on disk: MCAP, and folders of rosbag2. No ROS is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.io.bag_storage import (
    BagMessage,
    read_mcap,
    read_sqlite,
    read_with_rosbags,
)

__all__ = ["Rosbag", "deserialize", "is_rosbag", "typestore"]

_METADATA = "metadata.yaml"
_STORAGES = {".mcap": read_mcap, ".db3": read_sqlite}


class Rosbag:
    """A recording: an MCAP or SQLite file, or a folder of rosbag2.

    It is read from its start, so that one whose end is missing is read as far as it goes.

    Args:
        path: the file or folder.

    Raises:
        BadInput: not a recording that is read.
        MissingDependency: mcap or rosbags is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._files = _files_of(path) if path.is_dir() else [path]

    def messages(self, kinds: Collection[str]) -> Iterator[BagMessage]:
        """Messages in the order of the file, of some types.

        Args:
            kinds: the types.

        Raises:
            BadInput: it is damaged or cut off, after all messages that can be read.
        """
        problem = None
        for file in self._files:
            read = _STORAGES.get(file.suffix.lower(), read_with_rosbags)
            try:
                yield from read(file, kinds)
            except BadInput as error:
                problem = problem or error
        if problem is not None:
            raise problem


def is_rosbag(path: Path) -> bool:
    """Whether a source is a recording: by the suffix of a file, by ``metadata.yaml`` in a folder.

    Raises:
        BadInput: a folder of MCAP or SQLite files without it, as where the recorder was killed.
    """
    if not path.is_dir():
        return path.suffix.lower() in _STORAGES
    if (path / _METADATA).is_file():
        return "rosbag2_bagfile_information" in _text(path / _METADATA)
    if any(file.suffix.lower() in _STORAGES for file in path.iterdir()):
        raise BadInput(
            f"holds recordings, and no {_METADATA}, as where the recorder was killed",
            where=path,
            fix=_named(path),
        )
    return False


@cache
def typestore() -> Any:
    """The message types of ROS 2 Humble; those that are used here are the same in all later ones."""
    typesys = require("rosbags.typesys", why="a ROS recording")
    return typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)


def deserialize(message: BagMessage) -> Any:
    """The fields of a message.

    Raises:
        BadInput: its data is none of its type.
    """
    try:
        return typestore().deserialize_cdr(message.data, message.kind)
    except Exception as error:  # rosbags raises many types on damaged data
        raise BadInput(f"a damaged {message.kind}", where=message.topic) from error


def _files_of(folder: Path) -> list[Path]:
    """The files of a folder in their order; the folder itself where it is compressed."""
    try:
        info = yaml.safe_load(_text(folder / _METADATA))["rosbag2_bagfile_information"]
        files = [folder / Path(name).name for name in info["relative_file_paths"]]
        compressed = (info.get("compression_mode") or "none").lower() in ("file", "message")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise BadInput("not the metadata of a recording", where=folder / _METADATA) from error
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise BadInput(f"{missing[0].name} of it is missing", where=folder, fix=_named(folder))
    unknown = [file for file in files if file.suffix.lower() not in _STORAGES]
    if unknown and not compressed:
        raise BadInput(f"{unknown[0].name} is no storage that is read", where=folder)
    return [folder] if compressed else files


def _named(folder: Path) -> str:
    """The command that runs the files of a folder by themselves."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _STORAGES)
    named = " ".join(command(file) for file in files) or "FILE.mcap"
    return f"name the files that are there: segclip-deploy run ENGINE {named} -o DIR"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"not readable ({error.strerror})", where=path) from error

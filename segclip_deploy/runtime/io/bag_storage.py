"""The files of ROS 2 recordings, read from their start and as far as they go: MCAP, SQLite, compressed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput

__all__ = ["BagMessage", "read_mcap", "read_sqlite", "read_with_rosbags"]

_LARGEST = 1 << 31  # bytes of a chunk: as of arrays


@dataclass(frozen=True)
class BagMessage:
    """A message of a recording.

    Attributes:
        topic: it was published on.
        kind: its type, ``"sensor_msgs/msg/Image"`` for example.
        time_ns: when the recorder took it, nanoseconds since 1970 by its clock.
        data: CDR.
    """

    topic: str
    kind: str
    time_ns: int
    data: bytes


def read_mcap(path: Path, kinds: Collection[str]) -> Iterator[BagMessage]:
    """Messages of an MCAP file; what is damaged in its midst is passed over.

    Args:
        path: the file.
        kinds: the types of messages that are wanted.

    Raises:
        BadInput: it cannot be read, or is cut off or damaged; after all messages that can be read.
        MissingDependency: mcap is not installed.
    """
    records = require("mcap.records", why="an MCAP recording")
    schemas: dict[int, str] = {}
    wanted: dict[int, tuple[str, str]] = {}  # channel: topic and type
    for record in _mcap_records(path):
        if isinstance(record, records.Schema):
            schemas[record.id] = record.name
        elif isinstance(record, records.Channel):
            kind = schemas.get(record.schema_id, "")
            if kind in kinds and record.message_encoding == "cdr":
                wanted[record.id] = record.topic, kind
        elif isinstance(record, records.Message) and record.channel_id in wanted:
            yield BagMessage(*wanted[record.channel_id], record.log_time, record.data)


def _mcap_records(path: Path) -> Iterator[Any]:
    """Records in the order of the file, those in chunks among them.

    Raises:
        BadInput: it is cut off or damaged, after all that can be read.
    """
    mcap = require("mcap.stream_reader", why="an MCAP recording")
    chunk_type = require("mcap.records", why="an MCAP recording").Chunk
    end_of_file = require("mcap.exceptions", why="an MCAP recording").EndOfFile
    problem, begun = None, False
    try:
        stream = path.open("rb")
    except OSError as error:
        raise BadInput(f"not readable ({error.strerror})", where=path) from error
    with stream:
        records = iter(mcap.StreamReader(stream, emit_chunks=True, validate_crcs=True).records)
        while True:
            try:
                record = next(records, None)
            except Exception as error:  # mcap raises many types on what is none, or ends too soon
                why = "it ends before its end was written" if begun else "no MCAP"
                if not isinstance(error, end_of_file) and begun:
                    why = f"it is damaged, and not read from there on ({error})"
                problem = problem or why
                break
            if record is None:
                break
            begun = True
            if not isinstance(record, chunk_type):
                yield record
                continue
            try:
                parts = mcap.breakup_chunk(_unpacked(record), validate_crc=True)
            except Exception:  # of decompression, too
                problem = problem or "a part of it is damaged, and left out"
            else:
                yield from parts
    if problem is not None:
        raise BadInput(problem, where=path)


def _unpacked(chunk: Any) -> Any:
    """A chunk that is not compressed, and no larger than it says and is allowed to be.

    Raises:
        ValueError: it is larger, smaller, or damaged.
    """
    data, size = chunk.data, chunk.uncompressed_size
    if size > _LARGEST:
        raise ValueError(size)
    if chunk.compression == "zstd":
        zstd = require("zstandard", why="an MCAP recording", extra="recordings")
        if zstd.frame_content_size(data) > size:  # the library believes the frame, not its caller
            raise ValueError(size)
        data = zstd.decompress(data, size)
    elif chunk.compression == "lz4":
        lz4 = require("lz4.frame", why="an MCAP recording", extra="recordings")
        data = lz4.LZ4FrameDecompressor().decompress(data, size)
    if len(data) != size:
        raise ValueError(len(data))
    return replace(chunk, compression="", data=data)


def read_sqlite(path: Path, kinds: Collection[str]) -> Iterator[BagMessage]:
    """Messages of an SQLite file, in the order in which they were written.

    Args:
        path: the file.
        kinds: the types of messages that are wanted.

    Raises:
        BadInput: it cannot be read, or is cut off or damaged; after all messages that can be read.
    """
    # What a killed recorder has left in a log beside the file is read only by who may change files.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        uri = f"{path.resolve().as_uri()}?{mode}"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as base:
            # Without this a file that is shorter than its header says is not read at all.
            base.execute("PRAGMA writable_schema=ON")
            base.execute("PRAGMA trusted_schema=OFF")  # a view of it may call no function
            rows = base.execute(
                "SELECT id, name, type FROM topics WHERE serialization_format='cdr'"
            )
            topics = {number: (name, kind) for number, name, kind in rows if kind in kinds}
            for number, time_ns, data in base.execute(
                "SELECT topic_id, timestamp, data FROM messages ORDER BY id"
            ):
                if number in topics:
                    yield BagMessage(*topics[number], time_ns, data)
    except sqlite3.Error as error:
        raise BadInput(f"it cannot be read to its end ({error})", where=path) from error


def read_with_rosbags(path: Path, kinds: Collection[str]) -> Iterator[BagMessage]:
    """Messages of a folder that is compressed by file or by message.

    Args:
        path: the folder.
        kinds: the types of messages that are wanted.

    Raises:
        BadInput: it cannot be read, or is cut off or damaged; after all messages that can be read.
        MissingDependency: rosbags is not installed.
    """
    rosbag2 = require("rosbags.rosbag2", why="a ROS recording")
    try:
        with rosbag2.Reader(path) as reader:
            wanted = [one for one in reader.connections if one.msgtype in kinds]
            for connection, time_ns, data in reader.messages(wanted) if wanted else ():
                yield BagMessage(connection.topic, connection.msgtype, time_ns, bytes(data))
    except Exception as error:  # SQLite and decompression raise types of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"a recording that cannot be read on ({reason})", where=path) from error

"""Protobuf's wire format, as far as ONNX files need it, read and written without the onnx package."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from segclip_deploy.errors import BadArtifact

__all__ = ["field", "fields", "members", "open_model", "text_of"]

_LONGEST_VARINT = 10  # bytes


def open_model(model: Path) -> memoryview:
    """A file's bytes, mapped.

    Raises:
        BadArtifact: the file is empty.
    """
    with model.open("rb") as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise BadArtifact("the file is empty (0 bytes)", where=model) from error


def text_of(name: memoryview, model: Path) -> str:
    """A string.

    Raises:
        BadArtifact: it is not UTF-8.
    """
    try:
        return bytes(name).decode()
    except UnicodeDecodeError as error:
        raise BadArtifact(f"not an ONNX file ({error})", where=model) from error


def members(message: memoryview, wanted: int, model: Path) -> Iterator[memoryview]:
    """The length-delimited fields of a number."""
    for number, value in fields(message, model):
        if number == wanted and isinstance(value, memoryview):
            yield value


def fields(message: memoryview, model: Path) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of a protobuf message's fields; those of fixed width are passed over.

    The wire format: https://protobuf.dev/programming-guides/encoding.

    Raises:
        BadArtifact: not a message.
    """
    position = 0
    try:
        while position < len(message):
            key, position = _varint(message, position)
            kind = key & 7
            if kind == 0:
                value, position = _varint(message, position)
                yield key >> 3, value
            elif kind == 2:
                length, position = _varint(message, position)
                if length > len(message) - position:
                    raise IndexError("cut short")
                yield key >> 3, message[position : position + length]
                position += length
            else:
                position += {1: 8, 5: 4}[kind]
        if position > len(message):
            raise IndexError("cut short")
    except (IndexError, KeyError) as error:
        raise BadArtifact(f"not an ONNX file ({error!r})", where=model) from error


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number and the position after it."""
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = message[position + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + place + 1
    raise IndexError("a number without end")


def field(number: int, value: memoryview | bytes | int) -> bytes:
    """One field, as ``fields`` reads it."""
    if isinstance(value, int):
        return _written(number << 3) + _written(value)
    return _written(number << 3 | 2) + _written(len(value)) + bytes(value)


def _written(value: int) -> bytes:
    """A number as a varint."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])

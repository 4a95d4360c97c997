"""What a file holds, by its first bytes: a picture, a film, or something else."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

__all__ = ["HEAD_BYTES", "IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "Kind", "kind_of", "kind_of_bytes"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".mkv", ".avi", ".ts", ".m4v", ".webm", ".mts", ".m2ts", ".mpg", ".mpeg"),
    *(".mjpeg", ".mjpg", ".wmv", ".flv", ".ogv", ".3gp", ".mxf", ".vob", ".h264", ".h265", ".hevc"),
)
"""A file called so is told of as a film that cannot be read, whatever is in it."""

HEAD_BYTES = 4096
"""So many bytes at the start of a file say what it is."""


class Kind(Enum):
    """What is read of a file.

    ``PICTURE``: Pillow reads it. ``FILM``: FFmpeg reads it. ``JPEG``: it begins with a JPEG, and is
    a film if more of them follow.
    """

    PICTURE = "picture"
    FILM = "film"
    JPEG = "jpeg"


_PICTURES = re.compile(rb"\x89PNG\r\n\x1a\n|GIF8[79]a|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP", re.DOTALL)
_STILL_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif", b"avis")
_FILMS = re.compile(
    rb"....(ftyp|moov|mdat|free|skip|wide|styp|moof)"  # MP4, MOV
    rb"|\x1a\x45\xdf\xa3"  # Matroska, WebM
    rb"|RIFF....AVI "
    rb"|\0\0\x01[\xba\xb3\xb0\x00\x20]"  # MPEG program, video and MPEG-4 streams
    rb"|\0?\0\0\x01[\x67\x27\x47\x68\x09\x40\x42\x46]"  # H.264 and HEVC streams
    rb"|FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11|OggS|\x06\x0e\x2b\x34\x02\x05\x01\x01"
    rb"|DKIF|nut/multimedia container|YUV4MPEG2 |\x1f\x07\0"
    rb"|(\r?\n)?--[^\r\n]{1,70}\r\n[Cc]ontent-[Tt]ype: *image/jpeg",  # a camera's stream, saved
    re.DOTALL,
)
_TS_PACKETS = (188, 192, 204)  # bytes: plain, with a time stamp (.mts), with error correction
_TS_ROW = 5  # marks in a row that are no coincidence


def kind_of(path: Path) -> Kind:
    """What a file holds; where its bytes do not say, what its name says.

    Only regular files are read: a pipe would be waited for. What is unknown counts as a picture,
    and Pillow then says what is wrong.
    """
    named = Kind.FILM if path.suffix.lower() in VIDEO_SUFFIXES else Kind.PICTURE
    try:
        if not path.is_file():
            return Kind.PICTURE
        with path.open("rb") as stream:
            found = kind_of_bytes(stream.read(HEAD_BYTES))
    except OSError:
        return named
    if found is Kind.JPEG and path.suffix.lower() in IMAGE_SUFFIXES:
        return Kind.PICTURE  # cameras append previews to their photographs
    return found or named


def kind_of_bytes(head: bytes) -> Kind | None:
    """What a file holds that begins so; None: unknown."""
    if head.startswith(b"\xff\xd8\xff"):
        return Kind.JPEG
    if _PICTURES.match(head) or (head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS):
        return Kind.PICTURE
    return Kind.FILM if _FILMS.match(head) or _is_transport_stream(head) else None


def _is_transport_stream(head: bytes) -> bool:
    """Whether marks of MPEG-TS stand one packet apart; the first packet may be cut."""
    return any(
        head[start : start + size * _TS_ROW : size] == b"G" * _TS_ROW and len(set(head)) > 1
        for size in _TS_PACKETS
        for start in range(size)
    )

"""Addresses of cameras and files on a network, which may hold passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote

__all__ = ["PIPELINE", "Address", "display_name", "hide_secrets", "is_address"]

PIPELINE = "gst:"
"""What the text of a GStreamer pipeline begins with where a source is named."""

_HIDDEN = "***"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")  # one slash: a Path has eaten the other
_PLACE = re.compile(r"[^/?#]*")
_PORT = re.compile(r"(\[.*\]|[^:]*)(:\d*)?")
# Some cameras take them in the path: rtsp://host/user=admin_password=x_channel=1.sdp
_IN_PATH = re.compile(r"(?i)((?:user|pass|pwd|token|secret|key|auth|sig)[a-z_-]*(?:=|%3d))[^/]*")
# In the text of a pipeline: key=value, quoted or not, and URLs that stand alone.
_WORD = re.compile(r"""([\w:-]+\s*=\s*)("(?:\\.|[^"\\])*"|'[^']*'|\S+)|\S*:/\S+""")
_SECRET_KEY = re.compile(
    r"(?i)user|pass|pwd|pw\b|token|secret|key|auth|sig|cookie|header|proxy|stream-?id"
)


@dataclass(frozen=True)
class Address:
    """A URL that prints without its secrets: ``str`` and ``repr`` give ``display_name``.

    Attributes:
        url: as the user gave it, for the library that opens it only.
    """

    url: str = field(repr=False)

    def __str__(self) -> str:
        return display_name(self.url)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    @property
    def stem(self) -> str:
        """The name of results: the file's name without suffix, without secrets."""
        path = str(self).partition("://")[2].partition("/")[2].partition("?")[0]
        stem = PurePosixPath(unquote(path)).stem
        return re.sub(r"[^\w. -]", "_", stem).lstrip(".") or "remote"


def is_address(source: str) -> bool:
    """Whether a source is a URL; a drive's letter is none."""
    return "://" in source and _SCHEME.match(source) is not None


def display_name(source: str) -> str:
    """A source as it may be printed, logged and stored: everything but the secrets of a URL.

    User and password go, and so does whatever follows ``?`` or ``#``: a token has any name there.
    In the text of a pipeline this is done with every URL in it, and the values of properties whose names tell of
    secrets go whole. A path of files is returned as it is.
    """
    if source.startswith(PIPELINE):
        return PIPELINE + hide_secrets(source[len(PIPELINE) :])
    scheme = _SCHEME.match(source)
    if scheme is None:
        return source
    rest = source[scheme.end() :]
    place = _PLACE.match(rest)
    first = place.group() if place else ""
    # A password may hold /, ? or #, unquoted. Then what stands before them is no host and port.
    if "@" in first or ("@" in rest and not _PORT.fullmatch(first)):
        rest = rest[rest.rindex("@") + 1 :]
    path, mark, _ = re.sub("#", "?", rest).partition("?")
    path = _IN_PATH.sub(rf"\g<1>{_HIDDEN}", path)
    return f"{scheme.group()}{path}{'?' + _HIDDEN if mark else ''}"


def hide_secrets(text: str) -> str:
    """The text of a pipeline, or what GStreamer says of one, as it may be printed."""
    return _WORD.sub(_shown_word, text)


def _shown_word(word: re.Match[str]) -> str:
    """A property, or a URL, of a pipeline's text."""
    key, value = word.group(1) or "", word.group(2) or word.group()
    quote = value[0] if value[0] in "\"'" else ""
    inner = value.strip(quote) if quote else value
    scheme = _SCHEME.search(inner)
    if _SECRET_KEY.search(key):
        inner = _HIDDEN
    elif scheme is not None:
        inner = inner[: scheme.start()] + display_name(inner[scheme.start() :])
    elif "@" in inner:
        inner = _HIDDEN
    return f"{key}{quote}{inner}{quote}"

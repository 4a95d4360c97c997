"""Files on HTTP servers: which URLs end, and are files rather than cameras."""

from __future__ import annotations

import http.client
import re
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any
from urllib import request
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.address import Address
from segclip_deploy.runtime.formats.kinds import HEAD_BYTES, IMAGE_SUFFIXES, Kind, kind_of_bytes

__all__ = ["Remote", "fetch_picture", "find_kind"]

_PATIENCE_S = 10.0
_LARGEST_PICTURE = 2**31  # bytes
_PART = 2**20  # bytes
_LARGEST_PLAYLIST = 2**20  # bytes
_UNANSWERED = (OSError, http.client.HTTPException, ValueError)


class Remote(Enum):
    """What a URL leads to: frames without end, a film that ends, or a picture."""

    LIVE = "live"
    FILM = "film"
    PICTURE = "picture"


def find_kind(address: Address) -> Remote:
    """Ask the server what it has, and read its first bytes.

    A file begins as a picture or film does, and has a length, a date or a version (RFC 9110,
    ``Content-Length``, ``Last-Modified``, ``ETag``). A playlist of HLS ends where it says so
    (``#EXT-X-ENDLIST``). All else is taken for a camera: a stream has none of these, and another
    protocol than HTTP is not asked.
    """
    if urlsplit(address.url).scheme.lower() not in ("http", "https"):
        return Remote.LIVE
    try:
        with _open(address.url) as answer:
            head = answer.read(HEAD_BYTES)
            if head.startswith(b"#EXTM3U"):
                text = head + answer.read(_LARGEST_PLAYLIST)
                return Remote.FILM if _ends(text, address.url) else Remote.LIVE
            kind, content = kind_of_bytes(head), answer.headers.get_content_type()
            ends = answer.length is not None or len(head) < HEAD_BYTES
            ends |= any(name in answer.headers for name in ("Last-Modified", "ETag"))
    except _UNANSWERED:  # FFmpeg says why, and knows servers that are no HTTP
        return Remote.LIVE
    if content.startswith("multipart/") or not ends:  # some cameras state a length, too
        return Remote.PICTURE if content.startswith("image/") and kind else Remote.LIVE
    if kind is Kind.FILM:
        return Remote.FILM
    if kind is Kind.JPEG and content.startswith("video/"):
        return Remote.FILM
    return Remote.PICTURE if kind else Remote.LIVE


def fetch_picture(address: Address, folder: Path) -> Path:
    """Copy a picture into a folder.

    Raises:
        BadInput: it does not come, or not whole.
        OSError: the disk is full.
    """
    suffix = PurePosixPath(unquote(urlsplit(address.url).path)).suffix.lower()
    copy = folder / f"{address.stem}{suffix if suffix in IMAGE_SUFFIXES else ''}"
    reason = None
    try:
        with _open(address.url) as answer:
            expected, came = answer.length, 0
            with copy.open("wb") as stream:
                while came <= _LARGEST_PICTURE and (part := answer.read(_PART)):
                    came += stream.write(part)
            if came > _LARGEST_PICTURE:
                reason = f"more than {_LARGEST_PICTURE} bytes"
            elif expected is not None and came != expected:
                reason = f"{came} of {expected} bytes came"
    except http.client.HTTPException as error:
        reason = type(error).__name__
    if reason is not None:  # raised out here, since other errors name the URL
        raise BadInput(f"not fetched ({reason})", where=address)
    return copy


def _open(url: str) -> Any:
    """GET, with the user and password of the URL where the server asks for them."""
    parts = urlsplit(url)
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    handlers: list[request.BaseHandler] = []
    if user or colon:
        known = request.HTTPPasswordMgrWithDefaultRealm()
        known.add_password(None, bare, unquote(user), unquote(password))
        handlers = [request.HTTPBasicAuthHandler(known), request.HTTPDigestAuthHandler(known)]
    return request.build_opener(*handlers).open(bare, timeout=_PATIENCE_S)


def _ends(playlist: bytes, url: str) -> bool:
    """Whether a playlist of HLS, or the first that a list of them names, is complete."""
    if b"#EXT-X-STREAM-INF" in playlist:
        named = re.search(rb"^[^#\s].*$", playlist, re.MULTILINE)
        if named is None:
            return False
        target = urljoin(url, named.group().decode("utf-8", "replace").strip())
        if urlsplit(target).scheme.lower() not in ("http", "https"):
            return False
        with _open(target) as answer:
            playlist = answer.read(_LARGEST_PLAYLIST)
    return b"#EXT-X-ENDLIST" in playlist

"""What a VRT refers to, looked at before GDAL opens it: it may name any file, and the network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.formats.georeference import driver_of

if TYPE_CHECKING:
    from xml.etree import ElementTree as Tree

__all__ = ["check_vrt"]

_MOST_BYTES = 256 << 20
_MOST_DEEP = 8  # VRTs of VRTs
# GDAL compares names without regard to case, and takes attributes and elements for the same.
_NAMES = ("sourcefilename", "sourcedataset", "dempath", "cutlinedsname", "gcpsfilename")
_KEYS = ("x_dataset", "y_dataset", "rpc_dem", "overview_file", "geoloc_file")  # of metadata
_CLASSES = (
    "vrtwarpeddataset",
    "vrtsourcedrasterband",
    "vrtrawrasterband",
    "vrtwarpedrasterband",
    "vrtderivedrasterband",
)
_WORDS = ("srs", "description", "categorynames", "histograms", "metadata", "gcplist")
"""Elements whose text names no file."""


def check_vrt(path: Path, *, allow_remote: bool) -> tuple[Path, ...]:
    """Refuse a VRT that refers to the network, to other folders, or to code.

    A source is a file in the folder of the VRT or below it, links followed, in a format that
    is on our list (``place.driver_of``), or raw pixels. VRTs among them are checked alike.

    Args:
        path: a VRT.
        allow_remote: sources may lie anywhere, in any format. Code stays refused.

    Returns:
        the local files that it refers to, those of its sources included; sorted.

    Raises:
        BadInput: it refers to what is not allowed, or is no VRT that can be checked.
    """
    found: set[Path] = set()
    _check(path, path.resolve().parent, allow_remote, found, ())
    return tuple(sorted(found))


def _check(
    path: Path, folder: Path, allow_remote: bool, found: set[Path], above: tuple[Path, ...]
) -> None:
    """Of one VRT; ``above`` are those that refer to it."""
    here = path.resolve()
    if here in above:
        raise BadInput("a VRT that refers to itself", where=path)
    if len(above) > _MOST_DEEP:
        raise BadInput(f"VRTs refer to VRTs more than {_MOST_DEEP} deep", where=path)
    root = _parsed(path)
    _check_kinds(root, path)
    for text, relative, raw in _sources(root, path):
        # As GDAL does: what is not relative to the VRT is so to the working folder.
        source = Path(os.path.abspath(path.parent / text if relative else text))  # noqa: PTH100
        if allow_remote and not source.is_file():
            continue
        if not allow_remote:
            _check_source(text, source, folder, path, raw=raw)
        seen = source in found and source.resolve() not in (here, *above)
        found.add(source)
        if not raw and not seen and driver_of(source) == "VRT":
            _check(source, folder, allow_remote, found, (*above, here))


def _parsed(path: Path) -> Tree.Element:
    from xml.etree import ElementTree as Tree  # here: 10 ms that runs without a VRT need not pay

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(f"a VRT of more than {_MOST_BYTES >> 20} MB", where=path)
        data = path.read_bytes()
        if re.search(rb"<!\s*(DOCTYPE|ENTITY)", data):
            raise BadInput("a VRT with a document type, which GDAL writes none of", where=path)
        builder = Tree.TreeBuilder(insert_comments=True)  # GDAL's text of an element ends there
        root = Tree.fromstring(data, Tree.XMLParser(target=builder))
    except (OSError, Tree.ParseError, ValueError, LookupError) as error:
        raise BadInput(f"no VRT that can be read ({error})", where=path) from error
    return root


def _named(root: Tree.Element) -> Iterator[tuple[str, str, Tree.Element]]:
    """(name in lower case, text, element) of all elements and attributes."""
    for element in root.iter():
        if isinstance(element.tag, str):
            yield element.tag.lower(), (element.text or "").strip(), element
            yield from ((name.lower(), text.strip(), element) for name, text in element.items())


def _check_kinds(root: Tree.Element, path: Path) -> None:
    """Refuse code, and kinds of VRT whose sources are named in ways that are not known here."""
    kinds = [text for name, text, _ in _named(root) if name == "subclass"]
    unknown = [kind for kind in kinds if kind.lower() not in _CLASSES]
    if str(root.tag).lower() != "vrtdataset" or unknown:
        raise BadInput(
            f"a VRT of the kind {(unknown or [root.tag])[0]}, whose sources cannot be checked",
            where=path,
            fix=f"label one file of its pixels: {_convert(path)}",
        )
    for name, text, _ in _named(root):
        if name == "pixelfunctioncode" or (
            name == "pixelfunctionlanguage" and text.lower() not in ("", "c")
        ):
            raise BadInput(
                "a VRT that holds code (a pixel function), which is never run",
                where=path,
                fix="ask its author for one file of its pixels",
            )


def _sources(root: Tree.Element, path: Path) -> Iterator[tuple[str, bool, bool]]:
    """(name, whether relative to the VRT, whether of raw pixels) of all that is referred to."""
    raw = {
        id(child)
        for name, _, band in _named(root)
        if name == "subclass" and (band.get("subClass") or "").lower() == "vrtrawrasterband"
        for child in band
    }
    words = {
        id(child) for name, _, element in _named(root) if name in _WORDS for child in element.iter()
    }
    for name, text, element in _named(root):
        if name in _NAMES:
            if len(element) or element.tag.lower() != name:
                raise BadInput("a VRT that names its sources in an odd way", where=path)
            relative = {key.lower(): value for key, value in element.items()}.get("relativetovrt")
            yield text, (relative or "0").strip() != "0", id(element) in raw
        elif name == "key" and text.lower() in _KEYS:
            yield (element.text or "").strip(), False, False
        elif id(element) not in words and ("/vsi" in text or "://" in text):
            yield text, False, False  # a file in a place that we do not know


def _check_source(text: str, source: Path, folder: Path, path: Path, *, raw: bool) -> None:
    shown = text if len(text) < 200 else text[:200] + "…"
    if re.match(r"/vsi|[a-z0-9_+.-]{2,}:|\s*<", text, re.IGNORECASE):
        raise BadInput(
            f"refers to {shown}, which is no file beside it",
            where=path,
            fix=f"trust it with --allow-remote, or label one file of its pixels: {_convert(path)}",
        )
    if not source.resolve().is_relative_to(folder):
        raise BadInput(
            f"refers to {shown}, outside its folder",
            where=path,
            fix=f"trust it with --allow-remote, or label one file of its pixels: {_convert(path)}",
        )
    if not source.is_file():
        raise BadInput(f"refers to {shown}, which is not there", where=path)
    if not raw and driver_of(source) is None:
        raise BadInput(
            f"refers to {shown}, which is in no format that is read here",
            where=path,
            fix=f"trust it with --allow-remote, or label one file of its pixels: {_convert(path)}",
        )


def _convert(path: Path) -> str:
    """The command that makes a GeoTIFF of what a VRT shows, beside it; rio comes with rasterio."""
    whole = path.with_name(f"{path.stem}_whole.tif")
    return command("rio", "convert", path, whole)

"""What GStreamer's messages say, in one line: the element, what is wrong with it, and what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.formats.address import hide_secrets
from segclip_deploy.runtime.io.sources.gstreamer_library import GStreamer, install_elements

__all__ = ["FIT", "has", "install_decoders", "lacking", "missing_plugin", "problem"]

_UNFIT = "not-negotiated"

FIT = "end the pipeline with ! videoconvert (after nvvidconv, where nv elements come before), and without a sink"
"""What mends a pipeline that gives no pixels that are read here."""


def has(modules: GStreamer, element: str) -> bool:
    """Whether an element is installed."""
    return modules.Gst.ElementFactory.find(element) is not None


def lacking(elements: Sequence[str], where: object) -> BadInput:
    """The error of elements that are not installed."""
    names = ", ".join(dict.fromkeys(elements))
    return BadInput(
        f"GStreamer has no element {names}", where=where, fix=install_elements(elements)
    )


def problem(modules: GStreamer, message: Any, where: object) -> BadInput:
    """The error that an element posts.

    Args:
        modules: of GStreamer.
        message: of the type ERROR.
        where: what errors call the pipeline; no secret that may stand in it is printed.
    """
    error, details = message.parse_error()
    factory = message.src.get_factory() if isinstance(message.src, modules.Gst.Element) else None
    name = factory.get_name() if factory is not None else message.src.get_name()
    if _UNFIT in (details or ""):
        return BadInput(
            f"{name}: its output is of no pixel format, or in no memory, that is read here",
            where=where,
            fix=FIT,
        )
    said = str(error.message).strip().rstrip(".")
    # The first line of the details names the place in GStreamer's source.
    _, _, more = str(details or "").partition(":\n")
    reason = f" ({more.strip().rstrip('.')})" if more.strip() else ""
    return BadInput(f"{name}: {hide_secrets(said + reason)}", where=where)


def missing_plugin(message: Any) -> str | None:
    """What an element misses, as its message says; None of other messages."""
    structure = message.get_structure()
    if structure is None or structure.get_name() != "missing-plugin":
        return None
    return f"GStreamer has no {structure.get_string('name') or structure.get_string('detail')}"


def install_decoders() -> str:
    """What brings decoders for nearly everything."""
    return command("sudo", "apt-get", "install", "gstreamer1.0-libav", "gstreamer1.0-plugins-bad")

"""How cameras and pipelines are named: ``csi:0``, ``usb:0``, ``gst:PIPELINE``."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.formats.address import PIPELINE

__all__ = ["is_pipeline", "pipeline_text"]

_CAMERA = re.compile(r"(csi|usb):([^?]*)(?:\?(.*))?", re.DOTALL)
_NUMBER = re.compile(r"[1-9]\d{0,4}")
_RATE = re.compile(r"[1-9]\d{0,5}(/[1-9]\d{0,5})?")
_FLIP = re.compile(r"[0-7]")

_OPTIONS = {"width": _NUMBER, "height": _NUMBER, "fps": _RATE, "flip": _FLIP}
_OF = {"csi": ("width", "height", "fps", "flip"), "usb": ("width", "height", "fps")}


def is_pipeline(source: str) -> bool:
    """Whether GStreamer is to read a source, by how it begins."""
    return source.startswith((PIPELINE, "csi:", "usb:"))


def pipeline_text(source: str) -> str:
    """The pipeline that a source stands for, in the language of gst-launch, without its end.

    Args:
        source: ``gst:PIPELINE``; ``csi:N``, the sensor N of a Jetson; or ``usb:N``, /dev/videoN. Cameras
            take ``?width=&height=&fps=``, and CSI ones ``&flip=``, the ``flip-method`` of nvvidconv, 0 to 7.

    Raises:
        BadInput: no pipeline after ``gst:``, no number, or an option that is none.

    Examples:
        >>> from segclip_deploy.runtime.io.sources.gstreamer_presets import pipeline_text
        >>> pipeline_text("usb:0?width=640&height=480")
        'v4l2src device=/dev/video0 ! capsfilter caps="video/x-raw,width=640,height=480;image/jpeg,width=640,height=480" ! decodebin ! videoconvert'
    """
    if source.startswith(PIPELINE):
        text = source[len(PIPELINE) :].strip().removesuffix("!").rstrip()
        if not text:
            example = command("segclip-deploy", "run", "ENGINE", "gst:videotestsrc is-live=true")
            raise BadInput("no pipeline after gst:", where=source, fix=f"as in {example} -o out")
        return text
    parts = _CAMERA.fullmatch(source)
    if parts is None or not parts[2].isdecimal():
        raise BadInput("the camera's number is missing", where=source, fix=f"as in {source[:4]}0")
    kind, number = parts[1], int(parts[2])
    options = _options(source, kind, parts[3] or "")
    return _csi(number, options) if kind == "csi" else _usb(number, options)


def _options(source: str, kind: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _OF[kind]:
            known = ", ".join(_OF[kind])
            raise BadInput(f"{kind}: has no option {name!r}; it has {known}", where=source)
        if not _OPTIONS[name].fullmatch(value):
            right = {"flip": "0 to 7", "fps": "a rate, as 30 or 30000/1001"}.get(name, "pixels")
            raise BadInput(f"{name}={value!r} is not {right}", where=source)
    return options


def _caps(media: str, options: dict[str, str]) -> str:
    """Of GStreamer: what a stream has to be."""
    wanted = [f"{side}={options[side]}" for side in ("width", "height") if side in options]
    if "fps" in options:
        rate = options["fps"]
        wanted.append(f"framerate={rate if '/' in rate else f'{rate}/1'}")
    return ",".join([media, *wanted])


def _csi(number: int, options: dict[str, str]) -> str:
    """The image processor makes RGB of it, which knows its sensor's colours; nvvidconv gives BGRx to the CPU."""
    flip = f" flip-method={options['flip']}" if "flip" in options else ""
    return (
        f'nvarguscamerasrc sensor-id={number} ! capsfilter caps="{_caps("video/x-raw(memory:NVMM)", options)}"'
        f" ! nvvidconv{flip} ! video/x-raw,format=BGRx"
    )


def _usb(number: int, options: dict[str, str]) -> str:
    """Raw pixels, or JPEG, in which most cameras send larger frames."""
    either = ";".join(_caps(media, options) for media in ("video/x-raw", "image/jpeg"))
    return (
        f'v4l2src device=/dev/video{number} ! capsfilter caps="{either}" ! decodebin ! videoconvert'
    )
